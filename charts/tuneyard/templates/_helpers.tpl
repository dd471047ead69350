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

{{- define "tuneyard.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "tuneyard.name" .) }}
{{- end }}

{{/* The reference of a role's image: (list $ "operator"). */}}
{{- define "tuneyard.image" -}}
{{- $root := index . 0 }}
{{- $role := index . 1 }}
{{- $given := index $root.Values.images $role }}
{{- $image := ternary (dict "repository" $given) $given (kindIs "string" $given) }}
{{- if not $image.repository }}
{{- fail (printf "images.%s is not set. tuneyard publishes no images: run `images/build --push REGISTRY --values images.yaml` (for GPUs with --variant cuda), then install with `-f images.yaml`. docs/operations.md has more." $role) }}
{{- end }}
{{- with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- with $image.tag }}:{{ . }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The images of further roles, as a JSON object; empty where there are none. */}}
{{- define "tuneyard.images.more" -}}
{{- $more := dict }}
{{- range $role, $image := omit .Values.images "registry" "operator" "trainer" "server" }}
{{- if $image }}{{ $_ := set $more $role (include "tuneyard.image" (list $ $role)) }}{{ end }}
{{- end }}
{{- with $more }}{{ toJson . }}{{ end }}
{{- end }}

{{- define "tuneyard.webhook.name" -}}
{{- include "tuneyard.name" . | trunc 55 | trimSuffix "-" }}-webhook
{{- end }}

{{- define "tuneyard.webhook.secret" -}}
{{- .Values.webhook.tls.existingSecret | default (include "tuneyard.webhook.name" .) }}
{{- end }}

{{/* The host name by which the API server calls the webhook. */}}
{{- define "tuneyard.webhook.host" -}}
{{- include "tuneyard.webhook.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/*
The webhook's certificate in base64: {ca, crt, key}. It is the one in `webhook.tls`, or else one that the chart generates at
installation. Upgrades read it from its Secret and keep it. Without access to the cluster (helm template, Argo CD) each
rendering generates another one.
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
{{- $signed := genSignedCert (include "tuneyard.webhook.name" .) nil (list (include "tuneyard.webhook.host" .)) 3650 $ca }}
ca: {{ b64enc $ca.Cert }}
crt: {{ b64enc $signed.Cert }}
key: {{ b64enc $signed.Key }}
{{- end }}
{{- end }}
{{- end }}

{{/* The kinds that the webhook may get; no PriorityClasses with watchNamespaces, because they are cluster-scoped. */}}
{{- define "tuneyard.webhook.lookups" -}}
{{- $kinds := list }}
{{- if and .Values.webhook.enabled .Values.webhook.checkReferences }}
{{- $kinds = append $kinds "LocalQueue" }}
{{- if not .Values.watchNamespaces }}{{ $kinds = append $kinds "PriorityClass" }}{{ end }}
{{- end }}
{{- if and .Values.webhook.enabled .Values.webhook.checkSecrets }}{{ $kinds = append $kinds "Secret" }}{{ end }}
{{- join " " $kinds }}
{{- end }}

{{/* The rules for the controllers and for the lookups of the webhook; Secrets only with webhook.checkSecrets. */}}
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
