{{/* One name for all objects of the operator: that of the release, with what it is where that does not say it already. */}}
{{- define "outbox-operator.name" -}}
{{- if contains "operator" .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-operator" (.Release.Name | trunc 44 | trimSuffix "-") }}
{{- end -}}
{{- end -}}

{{- define "outbox-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "outbox-operator.labels" -}}
{{ include "outbox-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: bento-outbox
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The namespaces that are served, separated by commas; empty for all of them. */}}
{{- define "outbox-operator.namespaces" -}}
{{- if .Values.watchOwnNamespace -}}
{{- if .Values.watchNamespaces -}}
{{ fail "watchNamespaces and watchOwnNamespace exclude each other: set one of them" }}
{{- end -}}
{{ .Release.Namespace }}
{{- else -}}
{{ join "," .Values.watchNamespaces }}
{{- end -}}
{{- end -}}

{{/* An image of ours: {{ include "outbox-operator.image" (list . "projector") }} */}}
{{- define "outbox-operator.image" -}}
{{- $root := index . 0 -}}
{{- $given := get $root.Values (printf "%sImage" (index . 1)) -}}
{{- if $given -}}
{{ $given }}
{{- else -}}
{{- printf "%s/%s:%s" $root.Values.image.repository (index . 1) (default $root.Chart.AppVersion $root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/*
What the operator may do, and nothing else. It reads no Secrets: pods mount them by reference.
To server-side apply an object takes patch, and create where it does not exist yet. Nothing is deleted: the garbage collector
removes the children of an OutboxTenant.
*/}}
{{- define "outbox-operator.rules" -}}
- apiGroups: [outbox.bento.dev]
  resources: [outboxtenants]
  verbs: [get, list, watch]
# Its own part of the status; and nobody can grant what they do not have: each projector gets both for its own OutboxTenant.
- apiGroups: [outbox.bento.dev]
  resources: [outboxtenants/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
{{- end -}}
