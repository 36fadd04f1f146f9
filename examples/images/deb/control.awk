# Reads control data of Debian packages, and prints a line for each package: the number `number`, then name,
# version, architecture, dependencies, provided names and conflicts, with tabs between them.
#
# With `status`, the input is the database of dpkg, and only installed packages count. `file` names the input
# in errors.

function fail(reason) {
    print "error: " file ": " reason > "/dev/stderr"
    failed = 1
    exit 1
}

function finish_package() {
    if (!(started && (!status || field["status"] ~ / installed$/))) {
        forget_package()
        return
    }
    if (field["package"] !~ /^[a-z0-9][a-z0-9+.-]*$/)
        fail("the control data name no valid package")
    if (field["version"] !~ /^([0-9]+:)?[A-Za-z0-9][A-Za-z0-9.+~:-]*$/ || field["version"] ~ /-$/)
        fail("the package " field["package"] " has no valid version")
    if (field["architecture"] !~ /^[a-z0-9-]+$/)
        fail("the package " field["package"] " has no valid architecture")
    print number "\t" field["package"] "\t" field["version"] "\t" field["architecture"] "\t" \
        join("pre-depends", "depends") "\t" field["provides"] "\t" join("conflicts", "breaks")
    forget_package()
}

function forget_package() {
    split("", field)
    started = 0
    name = ""
}

function join(first, second) {
    return field[first] (field[first] != "" && field[second] != "" ? ", " : "") field[second]
}

{
    sub(/\r$/, "")
    gsub(/\t/, " ")
}

/^ *$/ {
    finish_package()
    next
}

# A line that begins with a space continues a field.
/^ / {
    if (name == "")
        fail("the control data begin with a continuation")
    field[name] = field[name] $0
    next
}

{
    colon = index($0, ":")
    if (colon < 2)
        fail("the control data have a line without a field name")
    name = tolower(substr($0, 1, colon - 1))
    if (name in field)
        fail("the control data have the field " name " twice")
    field[name] = substr($0, colon + 1)
    gsub(/^ +| +$/, "", field[name])
    started = 1
}

END {
    if (!failed)
        finish_package()
}
