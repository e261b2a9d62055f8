# shellcheck shell=bash
# What each node says of itself: Ready, the condition NetworkUnavailable, and HeadCNI's word on the mesh.

# name|Ready|NetworkUnavailable and its reason|the mesh
STATES='{{range .items}}{{.metadata.name}}|
{{- range .status.conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}|
{{- range .status.conditions}}{{if eq .type "NetworkUnavailable"}}{{.status}} {{.reason}}{{end}}{{end}}|
{{- with .metadata.annotations}}{{with index . "headcni.io/mesh"}}{{.}}{{end}}{{end}}
{{end}}'
UP='True\|False HeadCNIIsUp'
# shellcheck disable=SC2016 # these are variables of the template
SELECTOR='{{$comma := ""}}{{range $key, $value := .spec.template.spec.nodeSelector}}{{$comma}}{{$key}}={{$value}}{{$comma = ","}}{{end}}'
ROLLED='{{.metadata.generation}}{{with .status}} {{or .observedGeneration 0}} {{or .desiredNumberScheduled 0}}
{{- " "}}{{or .updatedNumberScheduled 0}} {{or .numberAvailable 0}}{{end}}{{"\n"}}'

look_at_nodes() {
  local selector
  selector=$(kubectl get daemonset "$DAEMONSET" --namespace "$NAMESPACE" -o go-template="$SELECTOR") &&
    kubectl get nodes --selector "$selector" -o go-template="$STATES" >"$WORK/all-states" &&
    sed '/^$/d' "$WORK/all-states" >"$WORK/states"
}

waiting_for() { # empty, once all is as it should be
  local rolled generation observed desired updated available late
  if ! rolled=$(kubectl get daemonset "$DAEMONSET" --namespace "$NAMESPACE" -o go-template="$ROLLED") || ! look_at_nodes; then
    echo "the API server"
    return
  fi 2>"$WORK/error"
  read -r generation observed desired updated available <<<"$rolled"
  late=$(grep -cvE "^[^|]*\|$UP\|(in force|none)?$" "$WORK/states" || true)
  if [[ $observed != "$generation" ]]; then
    echo "Kubernetes to take notice"
  elif [[ "$updated $available" != "$desired $desired" ]]; then
    echo "daemons: $available of $desired are ready, $updated of this version"
  elif ((late)); then
    echo "nodes that are not ready, or not in the mesh: $late"
  fi
}

wait_for_nodes() {
  local left before='' end=$((SECONDS + WAIT))
  while left=$(waiting_for) && [[ -n $left ]] && ((SECONDS < end)); do
    [[ $left == "$before" ]] || say "  …     waiting for $left"
    before=$left
    sleep 1
  done
  [[ -z $left ]]
}

print_nodes() {
  local name ready network mesh form='%-28s %-7s %-28s %s'
  say ''
  # shellcheck disable=SC2059 # the form is ours
  say "$(printf "$form" NODE READY NETWORK MESH)"
  while IFS='|' read -r name ready network mesh; do
    # shellcheck disable=SC2059
    say "$(printf "$form" "$name" "${ready:-?}" "${network:-nothing said yet}" "${mesh:--}")"
  done < <([[ ! -e $WORK/states ]] || sed 's/|False HeadCNIIsUp|/|HeadCNIIsUp|/' "$WORK/states")
}
