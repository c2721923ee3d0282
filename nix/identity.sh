# shellcheck shell=bash
# `identity` for a flake: evaluates the spec of a machine's configuration and works on the flake's checkout.
# NUKETOWN_CHECKOUT is checkout.nix, the expression that says what of the checkout is meant.
set -euo pipefail

self=nuketown-identity
flake=.
host=
status=0

fail() { # WHAT CURE [STATUS]
    printf '%s: error: %s\n' "$self" "$1" >&2
    printf '%s: hint: %s\n' "$self" "$2" >&2
    exit "${3:-1}"
}

usage() {
    cat <<END
usage: $self [--flake DIR] [--host NAME] VERB …

\`identity\` with the spec of a NixOS configuration of this flake; what it makes is written into the checkout.

  --flake DIR   the flake, a directory in a git checkout (default: where you are)
  --host NAME   which of its nixosConfigurations (default: the one called like this machine, or the only one)

  $self gen ada
  $self --host signi secret set ada anthropic-key <token.txt

The verbs:
END
    identity --help | sed -n '/^  [a-z]/p'
}

ask() { # INSTALLABLE EXPRESSION
    nix --extra-experimental-features 'nix-command flakes' eval --raw "$1" --apply "$2"
}

while [ $# -gt 0 ]; do
    case $1 in
        --flake | --host)
            [ $# -gt 1 ] || fail "$1 needs a value" "$self --help" 2
            if [ "$1" = --flake ]; then flake=$2; else host=$2; fi
            shift 2
            ;;
        --flake=*) flake=${1#*=} && shift ;;
        --host=*) host=${1#*=} && shift ;;
        -h | --help) usage && exit 0 ;;
        -*) fail "$1 is not known here" "options of identity come after its verb: $self --help" 2 ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || fail "no verb was given" "$self gen --all; all of them: $self --help" 2
verb=$1
shift

flake=$(cd -- "$flake" 2>/dev/null && pwd -P) || fail "$flake is no directory" "name that of flake.nix: --flake DIR" 2
[ -e "$flake/flake.nix" ] || fail "$flake holds no flake.nix" "go to the flake, or name it: --flake DIR" 2
top=$(git -C "$flake" rev-parse --show-toplevel 2>/dev/null) ||
    fail "$flake is in no git checkout" "a flake is built of what git knows: git -C $flake init && git -C $flake add ."

if [ -z "$host" ]; then
    # shellcheck disable=SC2016 # Nix, not shell
    hosts=$(ask "$flake#nixosConfigurations" 'hosts: builtins.concatStringsSep "\n" (builtins.attrNames hosts)') ||
        fail "the nixosConfigurations of $flake cannot be listed" "nix flake show $flake"
    here=$(uname -n)
    if grep -qxF -e "${here%%.*}" <<<"$hosts"; then
        host=${here%%.*}
    elif [ -n "$hosts" ] && [ "$(wc -l <<<"$hosts")" = 1 ]; then
        host=$hosts
        printf '%s: note: for %s, the only configuration of this flake\n' "$self" "$host" >&2
    else
        fail "this flake has no configuration for ${here%%.*}" "--host NAME, one of: ${hosts//$'\n'/ }"
    fi
fi
[[ $host =~ ^[A-Za-z0-9._-]+$ ]] || fail "$host cannot be the name of a configuration" "--host NAME" 2

private=$(mktemp -d)
trap 'rm -rf -- "$private"' EXIT
ask "$flake#nixosConfigurations.\"$host\".config.nuketown" "$(cat -- "$NUKETOWN_CHECKOUT")" >"$private/answer" ||
    fail "the configuration of $host was not evaluated" "cure what is said above; the same without identity: nix flake check $flake"
{
    read -r below
    read -r secrets
    read -r recovery
    # Kept from being edited: what it should say belongs into the configuration.
    printf '# Generated from the configuration of %s: do not edit.\n' "$host"
    cat
} <"$private/answer" >"$private/town.toml"
case $below in
    "") out=$flake ;;
    .) out=$top ;;
    *) out=$top/$below ;;
esac
[ -d "$out" ] || fail "$out is not there" "mkdir -p it, and git add what is in it"

case $verb in
    host) identity --spec "$private/town.toml" "$verb" "$@" || status=$? ;; # this machine's key: no file of the checkout
    *) identity --spec "$private/town.toml" "$verb" --out "$out" "$@" || status=$? ;;
esac

# What a build cannot see yet. An absolute path is no file of the checkout.
files=()
for name in identities "$secrets" "$recovery"; do
    case $name in /*) continue ;; esac
    [ -n "$(git -C "$out" status --short -- "$name")" ] && files+=("$name")
done
if [ ${#files[@]} -gt 0 ]; then
    {
        printf '%s: commit what has changed; a flake is built of what git knows:\n' "$self"
        git -C "$out" status --short --untracked-files=all -- "${files[@]}"
        printf '  git -C %q add --%s && git -C %q commit\n' "$out" "$(printf ' %q' "${files[@]}")" "$out"
    } >&2
fi
exit "$status"
