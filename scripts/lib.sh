# Shared by the set-up scripts. POSIX sh; source it.

say() { printf '%s\n' "$*" >&2; }

# Whether this script may install Debian packages here.
can_install() {
    [ "$(id -u)" = 0 ] && [ -r /etc/os-release ] && command -v apt-get >/dev/null 2>&1 &&
        (. /etc/os-release && case " ${ID:-} ${ID_LIKE:-} " in *" debian "* | *" ubuntu "*) ;; *) exit 1 ;; esac)
}

# apt_install PACKAGE…: install those that this release packages; the rest are passed over.
apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    say "installing $*"
    apt-get -qq -o Acquire::Retries=3 update >&2 || return 1
    packages=
    for package in "$@"; do
        if apt-cache --quiet=0 policy "$package" 2>/dev/null | grep -q 'Candidate: [^(]'; then
            packages="$packages $package"
        else
            say "  $package is not packaged here; going on without it"
        fi
    done
    # shellcheck disable=SC2086 # a list of names
    apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install --no-install-recommends $packages \
        >"${TMPDIR:-/tmp}/alyx-sandbox-apt.log" 2>&1 || {
        tail -n 20 "${TMPDIR:-/tmp}/alyx-sandbox-apt.log" >&2
        return 1
    }
}
