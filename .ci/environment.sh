# Sourced by ./run and ./test: `environment <lock file>` makes .venv and installs the locked packages and this project.
#
# Nothing is done when .venv/tryon-stamp says that it was done already, for this folder, these locks and this Python. What
# is installed for ./test serves ./run too.

environment() {
    local lock=$1 digest python
    # One at a time: the lock is on the folder itself and ends with this process.
    exec 9<.
    if command -v flock >/dev/null; then flock 9; fi

    digest=$(printf '%s\n' "$PWD" | cat - requirements.lock requirements-test.lock pyproject.toml | cksum)
    if ! { [ -x .venv/bin/tryon ] && grep -qsxF -e "$digest $lock" -e "$digest requirements-test.lock" .venv/tryon-stamp; }; then
        # A .venv without pip, or one that came here from another folder, is made anew.
        if ! { .venv/bin/python -m pip --version && grep -qsF " $PWD/.venv" .venv/pyvenv.cfg; } >/dev/null 2>&1; then
            python=$(find_python)
            echo "Making the virtual environment in .venv with $python" >&2
            "$python" -m venv --clear .venv
        fi
        echo "Installing the packages of $lock into .venv (this takes a minute, once)" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
        echo "$digest $lock" >.venv/tryon-stamp
    fi
    exec 9<&-
}

# Prints the names in TRYON_PROCESSOR, one a line: of the environment, else of the file .env, as the settings have it.
processor_names() {
    local setting=${TRYON_PROCESSOR-}
    if [ -z "$setting" ] && [ -f .env ]; then
        setting=$(.venv/bin/python -c 'from dotenv import dotenv_values; print(dotenv_values(".env").get("TRYON_PROCESSOR") or "")')
    fi
    printf '%s\n' "$setting" | tr ',' '\n' | tr -d ' '
}

# Installs what the built-in processors of TRYON_PROCESSOR need beside requirements.lock: packages, then weights.
processor_environment() {
    local name digest
    for name in $(processor_names); do
        case $name in
            overlay)
                digest=$(cat .venv/tryon-stamp requirements-overlay.lock | cksum)
                if ! grep -qsxF -e "$digest" .venv/tryon-overlay-stamp; then
                    echo "Installing the packages of requirements-overlay.lock into .venv (once)" >&2
                    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes --no-deps \
                        -r requirements-overlay.lock
                    echo "$digest" >.venv/tryon-overlay-stamp
                fi
                .venv/bin/tryon overlay install >&2
                ;;
        esac
    done
}

# The first Python that will do; says in one line what is missing if there is none.
find_python() {
    local python found=""
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            found=$python
            if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$python"
                return
            fi
        fi
    done
    if [ -n "$found" ]; then
        echo "$found lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2
    else
        echo "Python 3.11 or newer is missing; on Debian and Ubuntu: apt-get install python3 python3-venv" >&2
    fi
    return 1
}

# Makes .venv/redis8: .venv, with redis-py 8 found before its own.
redis8_environment() {
    local at=.venv/redis8 digest
    digest=$(cat .venv/tryon-stamp requirements-redis8.lock | cksum)
    if ! grep -qsxF -e "$digest" $at/tryon-stamp; then
        .venv/bin/python -m venv --clear --without-pip $at
        .venv/bin/python -m pip --python $at/bin/python install --quiet --disable-pip-version-check --no-input --no-deps \
            --require-hashes -r requirements-redis8.lock
        # Written last: pip must not find the packages of .venv.
        $at/bin/python -c '
import pathlib, sys, sysconfig
path = pathlib.Path(sysconfig.get_path("purelib"), "venv.pth")
path.write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")
' "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        echo "$digest" >$at/tryon-stamp
    fi
}

# Prints a Python of this version (3.12) that can make environments; fails if there is none. Those of pyenv count too.
other_python() {
    local python
    for python in "python$1" "$(pyenv root 2>/dev/null)/versions/$1".*/bin/python; do
        if "$python" -c 'import ensurepip, ssl, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$1" \
            2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

# Makes .venv/python3.12, with the packages of requirements-test.lock; fails if that cannot be.
other_environment() {
    local at=.venv/python$1 python=$2 digest
    digest=$("$python" -V | cat - .venv/tryon-stamp | cksum)
    if ! grep -qsxF -e "$digest" "$at/tryon-stamp"; then
        echo "Making the virtual environment in $at with $python" >&2
        "$python" -m venv --clear "$at" &&
            "$at/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes \
                --only-binary :all: -r requirements-test.lock &&
            "$at/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e . &&
            echo "$digest" >"$at/tryon-stamp"
    fi
}
