{{- define "tuneyard.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tuneyard.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tuneyard.labels" -}}
{{ include "tuneyard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tuneyard.webhook.name" -}}
{{- include "tuneyard.name" . | trunc 55 | trimSuffix "-" }}-webhook
{{- end }}

{{- define "tuneyard.webhook.secret" -}}
{{- .Values.webhook.tls.existingSecret | default (include "tuneyard.webhook.name" .) }}
{{- end }}

{{/* The name by which the API server calls it. */}}
{{- define "tuneyard.webhook.host" -}}
{{- include "tuneyard.webhook.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/*
The webhook's certificate in base64: {ca, crt, key}. The one of `webhook.tls`, or else the one that was made at the
installation: it is read back from its Secret, so upgrades keep it. Where helm cannot ask the cluster (helm template, Argo
CD) each rendering makes another one.
*/}}
{{- define "tuneyard.webhook.certificate" -}}
{{- $tls := .Values.webhook.tls }}
{{- if or .Values.webhook.certManager.enabled $tls.existingSecret }}
{{- with $tls.caBundle }}
ca: {{ b64enc . }}
{{- end }}
{{- else if $tls.certificate }}
ca: {{ $tls.caBundle | default $tls.certificate | b64enc }}
crt: {{ b64enc $tls.certificate }}
key: {{ required "webhook.tls.certificate needs webhook.tls.key" $tls.key | b64enc }}
{{- else }}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (include "tuneyard.webhook.secret" .) | default dict }}
{{- if $kept.data }}
ca: {{ index $kept.data "ca.crt" }}
crt: {{ index $kept.data "tls.crt" }}
key: {{ index $kept.data "tls.key" }}
{{- else }}
{{- $ca := genCA (include "tuneyard.webhook.name" .) 3650 }}
{{- $made := genSignedCert (include "tuneyard.webhook.name" .) nil (list (include "tuneyard.webhook.host" .)) 3650 $ca }}
ca: {{ b64enc $ca.Cert }}
crt: {{ b64enc $made.Cert }}
key: {{ b64enc $made.Key }}
{{- end }}
{{- end }}
{{- end }}

{{/* The kinds that the webhook may look up. PriorityClasses belong to the cluster: a release for some namespaces may not. */}}
{{- define "tuneyard.webhook.lookups" -}}
{{- $kinds := list }}
{{- if and .Values.webhook.enabled .Values.webhook.checkReferences }}
{{- $kinds = append $kinds "LocalQueue" }}
{{- if not .Values.watchNamespaces }}{{ $kinds = append $kinds "PriorityClass" }}{{ end }}
{{- end }}
{{- if and .Values.webhook.enabled .Values.webhook.checkSecrets }}{{ $kinds = append $kinds "Secret" }}{{ end }}
{{- join " " $kinds }}
{{- end }}

{{/* What the controllers use, and what the webhook looks up. No Secrets, unless webhook.checkSecrets asks for it. */}}
{{- define "tuneyard.rules" -}}
{{- $lookups := include "tuneyard.webhook.lookups" . | splitList " " -}}
{{ .Files.Get "files/rules.yaml" | trim }}
{{- if has "LocalQueue" $lookups }}
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [get]
{{- end }}
{{- if has "PriorityClass" $lookups }}
- apiGroups: [scheduling.k8s.io]
  resources: [priorityclasses]
  verbs: [get]
{{- end }}
{{- if has "Secret" $lookups }}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}
{{- end }}
