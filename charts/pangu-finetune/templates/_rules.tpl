{{- /*
What the controller does with objects of a namespace that it watches, and nothing more: read off
controller/cluster/. Children are created once, read again after a conflict, and deleted; what a
service consists of is applied. Secrets are never read.
*/}}
{{- define "pangu.rules" -}}
- apiGroups: [pangu-finetune.io]
  resources: [pangujobs]
  verbs: [list, watch, delete]
# A job may make one at its end.
- apiGroups: [pangu-finetune.io]
  resources: [panguservices]
  verbs: [get, list, watch, create, patch]
- apiGroups: [pangu-finetune.io]
  resources: [pangujobs/status, panguservices/status]
  verbs: [patch]
# To own objects whose owner may not vanish before them.
- apiGroups: [pangu-finetune.io]
  resources: [pangujobs/finalizers, panguservices/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, create]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [get, list, watch, create, patch, delete]
{{- if .Values.watch.nodes }}
# Those that a lost node will never end.
- apiGroups: [""]
  resources: [pods]
  verbs: [delete]
{{- end }}
{{- if .Values.watch.queues }}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
{{- end }}
{{- if .Values.watch.autoscalers }}
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- end }}

{{- /* In the release's own namespace. A name cannot be asked for when an object is created. */}}
{{- define "pangu.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "pangu.name" . }}]
  verbs: [get, update]
{{- end }}

{{- define "pangu.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}

{{- define "pangu.subjects" -}}
- kind: ServiceAccount
  name: {{ include "pangu.serviceAccount" . }}
  namespace: {{ .Release.Namespace | quote }}
{{- end }}
