# Refuses packages that apk could not install completely in the sandbox.
#
#   awk -f check.awk BEFORE SCRIPTS AFTER
#
# BEFORE and AFTER are databases of installed packages. SCRIPTS lists the scripts of AFTER, a line each:
# NAME-VERSION.HASH.TYPE. A new package is refused if an entry does not belong to root, if apk marked the
# package as broken, or if it has a script that apk runs in a chroot during the installation or upgrade.

# Adds a line for the user, in the order of the database.
function refuse(reason) {
    print "error: the package " name " cannot be installed: " reason > "/dev/stderr"
    refused = 1
}

function finish_package(    script) {
    if (name == "")
        return
    if (checksum in old) {
        if (scripts[name "-" version, "install"] == "trigger")
            print "note: the trigger of the package " name " is not executed" > "/dev/stderr"
        return
    }
    if (owner != "")
        refuse(owner)
    else if (broken ~ /f/)
        refuse("apk could not write its files as they are in the package; the messages above tell why")
    else if (broken ~ /x/)
        refuse("apk could not set all attributes of its files")
    else if (script = scripts[name "-" version, name in installed ? "upgrade" : "install"])
        refuse("its " script " script needs a chroot")
}

function start_package() {
    name = version = checksum = directory = path = owner = broken = ""
}

# A file can be empty, so that its name, not its number, tells which one it is.
FILENAME == ARGV[1] {
    if (/^C:/)
        old[substr($0, 3)]
    if (/^P:/)
        installed[substr($0, 3)]
    next
}

FILENAME == ARGV[2] {
    if (match($0, /\.(pre-install|post-install|pre-upgrade|post-upgrade|trigger)$/)) {
        type = substr($0, RSTART + 1)
        sub(/\.[^.]*\.[a-z-]*$/, "")
        if (type == "trigger")
            scripts[$0, "install"] = scripts[$0, "upgrade"] = type
        else
            scripts[$0, substr(type, index(type, "-") + 1)] = type
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
