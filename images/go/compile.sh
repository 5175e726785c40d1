#!/bin/sh
# compile ENTRY_FILE stdio|handler: compile the function at /src into the program /out/function.
#
# ENTRY_FILE, relative to /src, names the package: the Go files in its directory. For a handler
# without a main function of its own, one is added. Modules it needs have to be in vendor/.
set -eu
entry=$1
interface=$2

# The toolchain fails on a cache that it cannot write to; links to its files are enough.
cp -Rs /usr/local/go/cache /tmp/cache

# Sources are read-only where they are, and files may have to be added.
cp -R /src /tmp/build
chmod -R u+w /tmp/build
cd /tmp/build
package=$(dirname "./$entry")

if [ ! -e go.mod ]; then
    printf 'module function\n\ngo %s\n' "$(go env GOVERSION | sed 's/^go//')" >go.mod
elif [ ! -e vendor/modules.txt ]; then
    # What a developer's machine needs to find the package alyx; here it is in the toolchain.
    go mod edit -droprequire alyx -dropreplace alyx
fi

# declares FUNCTION: whether the package has it.
declares() {
    find "$package" -maxdepth 1 -name '*.go' ! -name '*_test.go' -exec grep -qE "^func $1\(" {} +
}

if [ "$interface" = handler ] && ! declares main; then
    if ! declares Handler; then
        echo "$entry: declares neither func Handler(ctx *alyx.Context) (any, error) nor func main" >&2
        exit 1
    fi
    name=$(go list -f '{{.Name}}' "$package")
    if [ "$name" = main ]; then
        printf 'package main\n\nimport "alyx"\n\nfunc main() { alyx.Serve(Handler) }\n' \
            >"$package/zz_alyx_main.go"
    else
        path=$(go list -f '{{.ImportPath}}' "$package")
        package=$package/zz_alyx_main
        mkdir "$package"
        printf 'package main\n\nimport (\n\t"alyx"\n\tfunction "%s"\n)\n\nfunc main() { alyx.Serve(function.Handler) }\n' \
            "$path" >"$package/main.go"
    fi
fi

if ! go build -ldflags '-s -w' -o /out/function "$package" 2>/tmp/errors; then
    cat /tmp/errors >&2
    if grep -qE 'no required module|GOPROXY=off|missing go.sum' /tmp/errors; then
        echo "(there is no network here: modules have to be in vendor/; run: go mod vendor)" >&2
    fi
    exit 1
fi
