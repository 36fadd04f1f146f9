# Functions that read a .deb file. It is an `ar` archive of `debian-binary`, `control.tar` and `data.tar`; the
# last two have the extension of their compression. Not every busybox has `ar`, so that its headers are read
# here. The size of the control data is bounded, because init reads those of every file.

max_control_bytes=$((16 * 1024 * 1024))
# deb(5) has three members; more are allowed, but unknown.
max_members=10

fail() {
    echo "error: $*" >&2
    exit 1
}

# A name without characters that could change a terminal.
shown() {
    printf '%s' "$1" | tr -c ' -~' '?'
}

# Prints the name and the size in the header of a member, which begins at the offset $2 of the file $1.
read_header() {
    dd if="$1" bs=1 skip="$2" count=60 2>/dev/null | tr -c ' -~' '?' | awk '
        {
            name = substr($0, 1, 16)
            size = substr($0, 49, 10)
            sub(/\/? *$/, "", name)
            sub(/ *$/, "", size)
        }
        length($0) == 60 && substr($0, 59) == "`?" && name ~ /^[A-Za-z0-9._-]+$/ && size ~ /^[0-9]+$/ {
            print name, size
        }'
}

# Finds the members of the file $1, whose name for errors is $2. Sets `control` and `data` to their names, and
# for both the offset `*_start` and the size `*_size`.
find_members() {
    control=
    data=
    damaged="$2 is damaged, or is no Debian package"
    length=$(stat -L -c %s "$1")
    [ "$(head -c 8 "$1" | tr -c ' -~' '?')" = '!<arch>?' ] || fail "$damaged"
    next=8
    members=0
    while [ -z "$data" ]; do
        members=$((members + 1))
        [ "$members" -le "$max_members" ] || fail "$damaged"
        header=$(read_header "$1" "$next")
        [ -n "$header" ] || fail "$damaged"
        part=${header% *}
        size=${header#* }
        start=$((next + 60))
        next=$((start + size + size % 2))
        [ "$((start + size))" -le "$length" ] || fail "$damaged"
        case $part in
        control.tar | control.tar.gz | control.tar.xz | control.tar.bz2 | control.tar.lzma)
            control=$part control_start=$start control_size=$size
            ;;
        data.tar | data.tar.gz | data.tar.xz | data.tar.bz2 | data.tar.lzma)
            data=$part data_start=$start data_size=$size
            ;;
        control.tar.* | data.tar.*) fail "$2 has $part, whose compression busybox cannot read" ;;
        esac
    done
    [ -n "$control" ] || fail "$damaged"
}

# Writes the member of the file $1 with the name $2, the offset $3 and the size $4, without its compression.
member() {
    { tail -c "+$(($3 + 1))" "$1" 2>/dev/null || :; } | head -c "$4" | case $2 in
    *.tar) cat ;;
    *.gz) gunzip -c ;;
    *.xz) unxz -c ;;
    *.bz2) bunzip2 -c ;;
    *.lzma) unlzma -c ;;
    esac
}

# Unpacks the control data of the file $1, whose name for errors is $2, into the new directory $3.
read_control() {
    find_members "$1" "$2"
    mkdir "$3"
    (
        ulimit -f "$((max_control_bytes / 512))"
        member "$1" "$control" "$control_start" "$control_size" >"$3.tar"
    ) 2>/dev/null || fail "the control data of $2 are damaged, or have more than $max_control_bytes bytes"
    tar -x -o -f "$3.tar" -C "$3" 2>/dev/null || fail "the control data of $2 are damaged"
    rm "$3.tar"
    if [ -L "$3/control" ] || [ ! -f "$3/control" ]; then
        fail "$2 has no control file"
    fi
}

# Unpacks the files of the file $1, whose name for errors is $2, into the archive $3.
read_data() {
    find_members "$1" "$2"
    member "$1" "$data" "$data_start" "$data_size" >"$3" 2>/dev/null || fail "the data of $2 are damaged"
}
