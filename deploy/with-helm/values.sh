# shellcheck shell=bash
# The values for Helm, what it makes of them, and whether its address ranges can be. Ranges are judged in what Helm renders,
# for they may come from a values file, from an earlier run, or from kubeadm's own configuration.

quoted() { # a string of YAML
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

listed() { # what has commas between
  local each parts=()
  for each in ${1//,/ }; do parts+=("$(quoted "$each")"); done
  if ((${#parts[@]} == 1)); then echo "${parts[0]}"; else echo "[$(joined "${parts[@]}")]"; fi
}

write_values() {
  local pod_cidr=() network=() headscale=()
  [[ -z $POD_CIDR ]] || pod_cidr+=("base: $(listed "$POD_CIDR")")
  [[ -z $PER_NODE ]] || pod_cidr+=("perNode: $(quoted "/${PER_NODE#/}")")
  [[ -z $SERVICE_CIDR ]] || network+=("serviceCIDR: $(listed "$SERVICE_CIDR")")
  [[ -z $URL ]] || headscale+=("url: $(quoted "$URL")")
  [[ -z $KEY ]] || headscale+=("authKey: $(quoted "$KEY")")
  {
    [[ -z $DISTRIBUTION ]] || echo "distribution: $DISTRIBUTION"
    network+=("podCIDR: {$(joined "${pod_cidr[@]}")}")
    echo "config: {network: {$(joined "${network[@]}")}, headscale: {$(joined "${headscale[@]}")}}"
  } >"$WORK/values.yaml"
}

is_installed() {
  local found
  if ! found=$(helm list --all --short --namespace "$NAMESPACE" --filter "^$RELEASE\$" 2>"$WORK/error"); then
    problem "Helm cannot say what is installed in namespace $NAMESPACE: $(first_line "$WORK/error")" \
      "use an administrator's kubeconfig"
    stop_if_problems
  fi
  [[ -n $found ]]
}

# What is not named stays as it was. Before 3.14 Helm keeps the chart's old defaults with that.
helm_upgrade() {
  local each options=()
  for each in "${VALUES[@]}"; do options+=(--values "$each"); done
  options+=(--values "$WORK/values.yaml")
  for each in "${SETS[@]}"; do options+=(--set "$each"); done
  if is_installed; then
    if at_least "$HELM_VERSION" 3 14; then options+=(--reset-then-reuse-values); else options+=(--reuse-values); fi
  fi
  helm upgrade --install "$RELEASE" "$CHART" --namespace "$NAMESPACE" "${options[@]}" "$@" >"$WORK/helm" 2>"$WORK/error"
}

forget_pending() { # what an operation that was cut off left; run again, Helm takes over what that one made
  echo "kubectl -n $NAMESPACE delete secret -l" \
    "'owner=helm,name=$RELEASE,status in (pending-install,pending-upgrade,pending-rollback)', and run this again"
}

render() {
  local dry=--dry-run
  if at_least "$HELM_VERSION" 3 13; then dry=--dry-run=server; fi
  if ! helm_upgrade "$dry"; then
    ! grep -q 'another operation .* is in progress' "$WORK/error" ||
      problem "Helm is at work on release $RELEASE, or was cut off there" "if no other Helm runs: $(forget_pending)"
    stop_if_problems
    problem "Helm refuses what would be installed: $(grep -v '^WARNING: Kubernetes configuration' "$WORK/error")" \
      "correct what it names"
    stop_if_problems
  fi
  sed -n '/^MANIFEST:$/,/^NOTES:$/p' "$WORK/helm" | sed '/^MANIFEST:$/d; /^NOTES:$/d' >"$WORK/manifest"
  DAEMONSET=$(awk '/^---/ {set = 0} /^kind: DaemonSet$/ {set = 1} set && /^  name: / {print $2; exit}' "$WORK/manifest")
  settings >"$WORK/settings"
}

# The daemon's configuration in the manifest, as KEY=VALUE with dotted keys; an item of a list is a line of its own.
settings() {
  awk '
    /^  config\.yaml: \|/ {inside = 1; next}
    inside && !/^    / {exit}
    inside {
      line = substr($0, 5); match(line, /^ */); depth = RLENGTH / 2; line = substr(line, RLENGTH + 1)
      if (line ~ /^- /) {
        value = substr(line, 3); depth = last
      } else {
        last = depth; at = index(line, ":"); path[depth] = substr(line, 1, at - 1); value = substr(line, at + 2)
      }
      key = path[0]; for (i = 1; i <= depth; i++) key = key "." path[i]
      gsub(/^["\047]|["\047]$/, "", value); if (value != "") print key "=" value
    }' "$WORK/manifest"
}

setting() { sed -n "s/^${1//./\\.}=//p" "$WORK/settings" | tr ',' '\n' | tr -d ' '; }

print_manifest() { # without what a Secret holds
  awk '
    /^---/ {secret = 0; data = 0}
    /^kind: Secret$/ {secret = 1}
    secret && data && /^  [^ ]/ {sub(/:.*/, ": (not shown)")}
    secret {data = /^(data|stringData):/ || (data && /^  /)}
    {print}' "$WORK/manifest"
}

# Its routes to other nodes' pods are ways past the mesh.
check_beside() {
  [[ ${#OTHER_PLUGINS[@]} -gt 0 && $(setting mesh.failClosed) == true ]] || return 0
  problem "beside another plugin, nodes are not ready while packets must stay in the mesh" \
    "say --set config.mesh.failClosed=false until it is gone: docs/migrate-flannel.md"
}

check_ranges() {
  local before=$PROBLEMS pods services
  mapfile -t pods < <(setting network.podCIDR.base)
  mapfile -t services < <(setting network.serviceCIDR)
  ((${#pods[@]})) || pods=(10.244.0.0/16) # the daemon's own default
  check_ranges_among_themselves
  check_ranges_of_nodes
  ((PROBLEMS > before)) || ok "pods $(joined "${pods[@]}"), Services $(joined "${services[@]:-by default}")"
}

check_ranges_among_themselves() {
  local each other
  for each in "${pods[@]}"; do
    for other in "${services[@]}"; do
      ! overlap "$each" "$other" ||
        problem "pods ($each) and Services ($other) overlap" "say both as the cluster was set up: --pod-cidr, --service-cidr"
    done
    [[ $(setting mesh.mode) == tailscale ]] || continue
    for other in 100.64.0.0/10 fd7a:115c:a1e0::/48; do
      ! overlap "$each" "$other" ||
        problem "pods ($each) overlap $other, the addresses of the mesh" "set the cluster up with another range for pods"
    done
  done
}

check_ranges_of_nodes() {
  local name cidrs addresses each other inside rest
  while IFS='|' read -r name _ _ cidrs addresses rest; do
    for each in $cidrs; do
      inside=''
      for other in "${pods[@]}"; do ! within "$each" "$other" || inside=yes; done
      [[ -n $inside ]] || problem "the node $name has the pod CIDR $each, outside of the pods' $(joined "${pods[@]}")" \
        "say --pod-cidr as the cluster was set up, or --distribution"
    done
    for each in $addresses; do
      for other in "${pods[@]}" "${services[@]}"; do
        ! overlap "$(single "$each")" "$other" ||
          problem "the node $name has the address $each, inside of $other" "pods, Services and nodes need ranges of their own"
      done
    done
  done <"$WORK/nodes"
}
