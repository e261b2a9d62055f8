# shellcheck shell=bash
# Addresses as text of bits, 4:0000101… or 6:…: two networks overlap if the bits of one begin with those of the other.

# All bits of the address of a CIDR; nothing, and 1, if it is none.
address_bits() {
  local address=${1%/*} family=4 width=8 group place bits='' groups
  [[ $1 =~ ^[0-9a-fA-F.:]+/[0-9]{1,3}$ ]] || return 1
  if [[ $address == *:* ]]; then
    family=6 width=16
    groups=$(groups_of_6 "$address") || return 1
  else
    [[ $address =~ ^(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}$ ]] || return 1
    groups=${address//./ }
  fi
  for group in $groups; do
    ((group < 1 << width)) || return 1
    for ((place = width - 1; place >= 0; place--)); do bits+=$(((group >> place) & 1)); done
  done
  ((10#${1#*/} <= ${#bits})) || return 1
  printf '%s:%s' "$family" "$bits"
}

# Its eight groups, as numbers of bash.
groups_of_6() {
  local address=$1 group groups
  [[ $address != *.* && $address != *:::* && $address != *::*::* ]] || return 1
  if [[ $address == *::* ]]; then
    groups=${address//[^:]/}
    ((${#groups} < 8)) || [[ $address == ::* || $address == *:: ]] || return 1
    [[ $address != ::* ]] || address=0$address
    [[ $address != *:: ]] || address=${address}0
    groups=${address//[^:]/}
    while ((${#groups} < 8)); do address=${address/::/:0::} groups+=:; done
    address=${address/::/:}
  fi
  read -ra groups <<<"${address//:/ }"
  [[ ${#groups[@]} == 8 && $address != :* && $address != *: ]] || return 1
  for group in "${groups[@]}"; do
    [[ $group =~ ^[0-9a-fA-F]{1,4}$ ]] || return 1
    printf '16#%s ' "$group"
  done
}

cidr_bits() { # those of its prefix
  local bits
  bits=$(address_bits "$1") && printf '%s' "${bits:0:2+10#${1#*/}}"
}

has_host_bits() {
  local bits
  bits=$(address_bits "$1") && [[ ${bits:2+10#${1#*/}} == *1* ]]
}

overlap() {
  local one other
  one=$(cidr_bits "$1") && other=$(cidr_bits "$2") && [[ $one == "$other"* || $other == "$one"* ]]
}

within() { # the first is a part of the second
  local one other
  one=$(cidr_bits "$1") && other=$(cidr_bits "$2") && [[ $one == "$other"* ]]
}

single() {
  if [[ $1 == *:* ]]; then echo "$1/128"; else echo "$1/32"; fi
}
