# shellcheck shell=bash
# `identity` for a flake: evaluates the spec of a machine's configuration and works on the flake's checkout.
# NUKETOWN_CHECKOUT is checkout.nix, the expression that says what of the checkout is meant.
set -euo pipefail

self=nuketown-identity
flake=.
host=
status=0
program="nix run .#identity --" # as it is called here, in hints
unset CDPATH

fail() { # WHAT CURE [STATUS]
    printf '%s: error: %s\n' "$self" "$1" >&2
    printf '%s: hint: %s\n' "$self" "$2" >&2
    exit "${3:-1}"
}

usage() {
    cat <<END
usage: $program [--flake DIR] [--host NAME] VERB …

\`identity\` with the spec of a NixOS configuration of this flake; what it makes is written into the checkout.

  --flake DIR   the flake, a directory in a git checkout (default: where you are)
  --host NAME   which of its nixosConfigurations (default: the one called like this machine, or the only one)

  $program gen ada
  $program --host signi secret set ada anthropic-key <token.txt

The verbs:
END
    identity --help | sed -n '/^  [a-z]/p'
}

ask() { # INSTALLABLE EXPRESSION; standard input is for identity
    nix --extra-experimental-features 'nix-command flakes' eval --raw "$1" --apply "$2" </dev/null
}

refuse_links() { # FILE, below the top of the checkout
    local way=$top part parts
    IFS=/ read -ra parts <<<"${1#"$top/"}"
    for part in "${parts[@]}"; do
        way+=/$part
        [ ! -L "$way" ] || fail "$way is a symbolic link: what is written would leave the checkout, or its place there" \
            "make it a directory or file of its own; what leads there is in the configuration: nuketown.sopsFile"
    done
}

while [ $# -gt 0 ]; do
    case $1 in
        --flake | --host)
            [ $# -gt 1 ] || fail "$1 needs a value" "$program --help" 2
            if [ "$1" = --flake ]; then flake=$2; else host=$2; fi
            shift 2
            ;;
        --flake=*) flake=${1#*=} && shift ;;
        --host=*) host=${1#*=} && shift ;;
        -h | --help) usage && exit 0 ;;
        -*) fail "$1 is not known here" "options of identity come after its verb: $program --help" 2 ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || fail "no verb was given" "$program gen --all; all of them: $program --help" 2
verb=$1
shift

given=$flake
flake=$(cd -- "$given" 2>/dev/null && pwd -P) || fail "$given is no directory" "name that of flake.nix: --flake DIR" 2
[ -e "$flake/flake.nix" ] || fail "$flake holds no flake.nix" "go to the flake, or name it: --flake DIR" 2
quoted=$(printf '%q' "$flake")
[ "$given" = . ] || program="nix run $quoted#identity -- --flake $quoted"
[ -z "$host" ] || program+=" --host $(printf '%q' "$host")"

private=$(mktemp -d)
trap 'rm -rf -- "$private"' EXIT

# Git refuses a checkout of somebody else's, too, and says how that is cured.
if ! top=$(LC_ALL=C git -C "$flake" rev-parse --show-toplevel 2>"$private/said"); then
    if grep -qF 'not a git repository' "$private/said"; then
        fail "$flake is in no git checkout" "a flake is built of what git knows: git -C $quoted init && git -C $quoted add ."
    fi
    cat -- "$private/said" >&2
    fail "git does not work in $flake, for what it says above" "be who the checkout belongs to, or cure what git says"
fi

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
[ -d "$out" ] || fail "$out is not there" "mkdir -p $(printf '%q' "$out"), and git add what is in it"
for name in identities "$secrets" "$recovery"; do
    case $name in /*) ;; *) refuse_links "$out/$name" ;; esac
done

# Hints name what can be typed when this has ended: its spec is gone then.
export NUKETOWN_IDENTITY=$program
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
