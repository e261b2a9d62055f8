{{/* The daemon's configuration, from `config`. */}}

{{- define "headcni.mesh" -}}
{{- .Values.config.mesh.mode | default (empty .Values.config.headscale.url | ternary "none" "tailscale") -}}
{{- end -}}

{{- define "headcni.approves" -}}
{{- if and (eq .Values.config.mesh.approval "approver") (eq (include "headcni.mesh" .) "tailscale") }}true{{ end -}}
{{- end -}}

{{/* Whether the daemon, or the approver, gets that key: empty or true. Call with (list . "authKey"). */}}
{{- define "headcni.hasKey" -}}
{{- $headscale := (index . 0).Values.config.headscale -}}
{{- if or $headscale.existingSecret (index $headscale (index . 1)) }}true{{ end -}}
{{- end -}}

{{- define "headcni.secret" -}}
{{- .Values.config.headscale.existingSecret | default (printf "%s-headscale" (include "headcni.name" .)) -}}
{{- end -}}

{{- define "headcni.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $networking := include "headcni.networking" . | fromJson -}}
{{- $_ := unset $config "ipam" -}}
{{- $_ := set $config.network.podCIDR "base" ($config.network.podCIDR.base | default $networking.podSubnet) -}}
{{- $_ := set $config.network "serviceCIDR" ($config.network.serviceCIDR | default $networking.serviceSubnet) -}}
{{- $_ := set $config.cni "template" "/etc/headcni/conflist" -}}
{{- $_ := set $config.mesh "mode" (include "headcni.mesh" .) -}}
{{- if eq $config.mesh.mode "none" -}}
{{- $_ := set $config "mesh" (dict "mode" "none") -}}
{{- $config = omit $config "headscale" "tailscale" -}}
{{- if include "headcni.reachesTailscale" . -}}
{{- $_ := set $config "tailscale" (dict "socket" (include "headcni.tailscaleSocket" .)) -}}
{{- end -}}
{{- else -}}
{{- $_ := set $config.tailscale "socket" (include "headcni.tailscaleSocket" .) -}}
{{- $headscale := dict "url" $config.headscale.url -}}
{{- if include "headcni.hasKey" (list . "authKey") -}}
{{- $_ := set $headscale "authKeyFile" "/run/headcni/keys/auth-key" -}}
{{- end -}}
{{- if eq $config.mesh.approval "key" -}}
{{- $_ := set $headscale "apiKeyFile" "/run/headcni/keys/api-key" -}}
{{- end -}}
{{- if $config.headscale.ca -}}
{{- $_ := set $headscale "caFile" "/etc/headcni/headscale-ca.crt" -}}
{{- end -}}
{{- $_ := set $config "headscale" $headscale -}}
{{- end -}}
{{- include "headcni.given" $config -}}
{{- end -}}

{{/* As YAML, without what is empty: to the daemon that would be a value, and not the default. */}}
{{- define "headcni.given" -}}
{{- $given := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- with include "headcni.given" $value | fromYaml -}}
{{- $_ := set $given $key . -}}
{{- end -}}
{{- else if not (has (toJson $value) (list "\"\"" "[]" "null")) -}}
{{- $_ := set $given $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{- define "headcni.conflist" -}}
{{- $ours := dict "type" "headcni" "state_dir" .Values.config.stateDir "ipam" .Values.config.ipam -}}
{{- $plugins := list (merge $ours .Values.conflist.settings) -}}
{{- range include "headcni.chained" . | fromJsonArray -}}
{{- $capability := eq . "portmap" | ternary "portMappings" . -}}
{{- $plugins = append $plugins (dict "type" . "capabilities" (dict $capability true)) -}}
{{- end -}}
{{- with .Values.conflist -}}
{{- dict "cniVersion" .cniVersion "name" .name "plugins" $plugins | toPrettyJson -}}
{{- end -}}
{{- end -}}
