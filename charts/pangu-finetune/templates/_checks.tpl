{{- /*
Refuses combinations that cannot work, with what to do. What the cluster holds is looked up only by
who may install definitions, since reading it takes the same rights.
*/}}
{{- define "pangu.check" -}}
{{- if and .Values.watch.allNamespaces .Values.watch.namespaces }}
{{- fail "watch.allNamespaces and watch.namespaces: one excludes the other; leave one of them out" }}
{{- end }}
{{- if .Values.crds.enabled }}
{{- include "pangu.checkDefinitions" . }}
{{- end }}
{{- end }}

{{- define "pangu.isForeign" -}}
{{- $notes := .object.metadata.annotations | default dict }}
{{- $name := get $notes "meta.helm.sh/release-name" }}
{{- $place := get $notes "meta.helm.sh/release-namespace" }}
{{- if or (ne $name .root.Release.Name) (ne $place .root.Release.Namespace) -}}
{{- if $name -}}release {{ $name }} in namespace {{ $place }}{{- else -}}no release{{- end }}
{{- end }}
{{- end }}

{{- define "pangu.checkDefinitions" -}}
{{- range list "pangujobs" "panguservices" }}
{{- $name := printf "%s.pangu-finetune.io" . }}
{{- $object := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $name }}
{{- if and $object (not $.Values.crds.adopt) }}
{{- with include "pangu.isForeign" (dict "object" $object "root" $) }}
{{- fail (printf "the definition %s is there already and belongs to %s. To use it as it is, add --set crds.enabled=false. To take it over from a release that is gone, add --set crds.adopt=true --take-ownership" $name .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
