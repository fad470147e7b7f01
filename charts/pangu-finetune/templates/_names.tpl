{{- /*
Every name and label. Names do not follow from the release's: two releases in one namespace, or two
that watch one namespace, would work on the same jobs, and so Helm refuses the second.
*/}}

{{- define "pangu.name" -}}
pangu-controller
{{- end }}

{{- /* Name of what lies outside namespaces and may be there once for each release. */}}
{{- define "pangu.clusterName" -}}
{{ include "pangu.name" . }}-{{ .Release.Namespace }}
{{- end }}

{{- define "pangu.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "pangu.name" .) | quote }}
{{- end }}

{{- define "pangu.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "pangu.labels" -}}
{{- $own := dict
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version)
-}}
{{ merge $own (include "pangu.selector" . | fromYaml) .Values.labels | toYaml }}
{{- end }}

{{- define "pangu.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: controller
{{- end }}

{{- /* The namespaces that are watched by name, as a JSON list; empty: all. */}}
{{- define "pangu.namespaces" -}}
{{- if .Values.watch.allNamespaces -}}
[]
{{- else -}}
{{ .Values.watch.namespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}
{{- end }}

{{- /* The namespaces whose pods of jobs get a NetworkPolicy, as a JSON list. */}}
{{- define "pangu.jobNamespaces" -}}
{{ .Values.networkPolicies.jobs.namespaces | default (include "pangu.namespaces" . | fromJsonArray) | toJson }}
{{- end }}

{{- /* What PodSecurity "restricted" asks of a pod, and of a container. */}}
{{- define "pangu.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pangu.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
