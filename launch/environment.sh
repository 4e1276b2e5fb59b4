# Makes the virtual environment .venv with vidgen in it, once; sourced by demo.sh and test.sh.
# Takes the extras to install as $1 (such as "[test]"); needs Python 3.11 or newer.
# A mark in the environment tells what was installed, so that a second run installs nothing.

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer was not found; set PYTHON to one." >&2
    return 1
}

environment() {
    local extras="$1" python mark
    mark=".venv/.vidgen$extras-$(cksum <pyproject.toml | cut -d' ' -f1)"
    [ -f "$mark" ] && return
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return 1
        echo "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    echo "installing vidgen$extras and what it needs (a minute or two)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras"
    touch "$mark"
}
