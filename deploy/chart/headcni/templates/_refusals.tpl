{{/* What no schema can say: values that contradict each other, and a second HeadCNI. All of it at once. */}}
{{- define "headcni.refuse" -}}
{{- $said := list -}}
{{- $headscale := .Values.config.headscale -}}
{{- if and $headscale.existingSecret (or $headscale.authKey $headscale.apiKey) -}}
{{- $said = append $said "config.headscale.existingSecret: give either a Secret or the keys, not both" -}}
{{- end -}}
{{- range $name := list "authKey" "apiKey" -}}
{{- if regexMatch "[^!-~]" (index $headscale $name) -}}
{{- $said = append $said (printf "config.headscale.%s: holds blanks, line breaks or characters that no key has" $name) -}}
{{- end -}}
{{- end -}}
{{- $approval := .Values.config.mesh.approval -}}
{{- if and (has $approval (list "approver" "key")) (eq (include "headcni.mesh" .) "tailscale") -}}
{{- if not $headscale.url -}}
{{- $said = append $said (printf "config.headscale.url: is empty, and mesh.approval %s calls Headscale's API" $approval) -}}
{{- end -}}
{{- if not (include "headcni.hasKey" (list . "apiKey")) -}}
{{- $said = append $said (printf "config.headscale.apiKey: mesh.approval %s needs it, or an existingSecret that has it" $approval) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (has .Values.config.metrics.address (list "127.0.0.1" "::1")) -}}
{{- $said = append $said "serviceMonitor.enabled: nobody can reach metrics on loopback; set config.metrics.address to 0.0.0.0 or ::" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- $said = append $said "serviceAccount.name: is empty, and serviceAccount.create is false; name the account that is there" -}}
{{- end -}}
{{- with include "headcni.other" . -}}
{{- $said = append $said (printf "%s: two on one node exclude each other; uninstall that one, or give force if no node is in both" .) -}}
{{- end -}}
{{- if $said -}}
{{- fail (printf "\nThese values cannot be:\n- %s\n" (join "\n- " $said)) -}}
{{- end -}}
{{- end -}}

{{- define "headcni.other" -}}
{{- if not .Values.force -}}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items -}}
{{- $labels := .metadata.labels | default dict -}}
{{- $daemon := and (eq (dig "app.kubernetes.io/name" "" $labels) "headcni") (eq (dig "app.kubernetes.io/component" "" $labels) "daemon") -}}
{{- $same := and (eq (dig "app.kubernetes.io/instance" "" $labels) $.Release.Name) (eq .metadata.namespace $.Release.Namespace) -}}
{{- if and $daemon (not $same) -}}
the cluster already has HeadCNI: DaemonSet {{ .metadata.name }} in namespace {{ .metadata.namespace }}
{{- break -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
