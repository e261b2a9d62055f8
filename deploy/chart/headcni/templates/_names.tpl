{{/* Everything is named after the release, so that two releases share no object. */}}
{{- define "headcni.name" -}}
{{- $name := contains "headcni" .Release.Name | ternary .Release.Name (printf "%s-headcni" .Release.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "headcni.account" -}}
{{- .Values.serviceAccount.name | default (include "headcni.name" .) -}}
{{- end -}}

{{- define "headcni.approver" -}}
{{- include "headcni.name" . }}-approver
{{- end -}}

{{- define "headcni.approverAccount" -}}
{{- include "headcni.account" . }}-approver
{{- end -}}

{{- define "headcni.hooks" -}}
{{- include "headcni.name" . }}-hooks
{{- end -}}

{{/* Call with (list . "component"). A selector cannot be changed after the first installation: neither may these. */}}
{{- define "headcni.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: headcni
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "headcni.labels" -}}
{{- $root := index . 0 -}}
{{ include "headcni.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "headcni.image" -}}
{{- with .Values.image -}}
{{- .repository -}}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* For HeadCNI's containers but the daemon: no more rights than reading. */}}
{{- define "headcni.unprivileged" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  add: []  # said, so that Helm takes away what the hook of the uninstallation added
readOnlyRootFilesystem: true
{{- end -}}
