# Checks the lists of `tar -t -v` of packages. A line that begins with a tab names the package of the next
# lines.
#
# A package is refused if it has an entry that does not belong to root, is a device, or has a name with a line
# break, or if another package has a file at the same path.

function fail(reason) {
    print "error: the package " package " cannot be installed: " reason > "/dev/stderr"
    exit 1
}

/^\t/ {
    package = substr($0, 2)
    next
}

{
    if (!match($0, /^[-a-z]+ +[^ ]+\/[^ ]+ +[0-9,]+ +[-0-9]+ [:0-9]+ /))
        fail("it has a file name with a line break")
    path = substr($0, RLENGTH + 1)
    type = substr($0, 1, 1)
    if (type ~ /[^-dhl]/)
        fail(path " is a device or a FIFO")
    if ($2 !~ /^(root|0)\/(root|0)$/)
        fail(path " belongs to " $2 ", not to root")
    sub(/ -> .*/, "", path)
    sub(/^\.?\//, "", path)
    sub(/\/$/, "", path)
    # The base has links from these names into /usr.
    if (path ~ /^(bin|sbin|lib|lib32|lib64|libx32)\//)
        path = "usr/" path
    if (type == "d")
        next
    if (path in owner && owner[path] != package)
        fail("the package " owner[path] " also has the file /" path)
    owner[path] = package
}
