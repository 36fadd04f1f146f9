# Refuses packages that apk could not install completely in the sandbox.
#
#   awk -f check.awk BEFORE SCRIPTS AFTER
#
# BEFORE and AFTER are databases of installed packages. SCRIPTS lists the scripts of AFTER, a line each:
# NAME-VERSION.HASH.TYPE. A package is refused if an entry does not belong to root, if apk marked the package
# as broken, or if it has a script that apk runs in a chroot during the installation.

# Adds a line for the user, in the order of the database.
function refuse(reason) {
    print "error: the package " name " cannot be installed: " reason > "/dev/stderr"
    refused = 1
}

function finish_package(    script) {
    if (name == "" || checksum in old)
        return
    if (owner != "")
        refuse(owner)
    else if (broken ~ /[fx]/)
        refuse("apk could not set all attributes of its files")
    else if (scripts[name "-" version] != "")
        refuse("its " scripts[name "-" version] " script needs a chroot")
}

function start_package() {
    name = version = checksum = directory = path = owner = broken = ""
}

# A file can be empty, so that its name, not its number, tells which one it is.
FILENAME == ARGV[1] {
    if (/^C:/)
        old[substr($0, 3)]
    next
}

FILENAME == ARGV[2] {
    if (match($0, /\.(pre-install|post-install|trigger)$/)) {
        type = substr($0, RSTART + 1)
        sub(/\.[^.]*\.(pre-install|post-install|trigger)$/, "")
        scripts[$0] = type
    }
    next
}

/^$/ {
    finish_package()
    start_package()
}
/^C:/ { checksum = substr($0, 3) }
/^P:/ { name = substr($0, 3) }
/^V:/ { version = substr($0, 3) }
/^f:/ { broken = substr($0, 3) }
/^F:/ { path = directory = substr($0, 3) }
/^R:/ { path = (directory == "" ? "" : directory "/") substr($0, 3) }
/^[Ma]:/ {
    split(substr($0, 3), field, ":")
    if (owner == "" && (field[1] != 0 || field[2] != 0))
        owner = "/" path " belongs to " field[1] ":" field[2] ", not to root"
}

END {
    finish_package()
    exit refused
}
