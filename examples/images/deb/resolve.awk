# Chooses the packages to install: the named ones and what they depend on. Prints a line for each: its name, a
# tab, and its number.
#
#   awk -f version.awk -f resolve.awk WANTED PACKAGES
#
# WANTED is a list of names. PACKAGES has the lines of control.awk; packages with the number 0 are installed
# already. Of several versions of a package, the highest counts. Of the alternatives of a dependency, the first
# that is installed or chosen counts, then the first that is there. Of several packages that provide a name,
# the first in the order of the names counts.

BEGIN {
    FS = "\t"
}

FILENAME == ARGV[1] {
    wanted[++wanted_count] = $0
    next
}

{
    read_package()
}

END {
    if (failed)
        exit 1
    for (name in number)
        note_provided(provides[name])
    for (item = 1; item <= wanted_count; item++)
        if (!(wanted[item] in present) && !choose(wanted[item]))
            unknown = unknown " " wanted[item]
    if (unknown != "")
        fail("the directory packages has no package named" unknown)
    for (item = 1; item <= chosen_count; item++)
        each_relation(depends[chosen[item]], chosen[item], "depends")
    if (missing != "")
        fail("the directory packages lacks " missing)
    for (name in present)
        each_relation(conflicts[name], name, "conflicts")
    for (item = 1; item <= chosen_count; item++)
        print chosen[item] "\t" number[chosen[item]]
}

function fail(reason) {
    print "error: " reason > "/dev/stderr"
    failed = 1
    exit 1
}

# Only the highest version of a package is kept, or the installed one.
function read_package(    name, order) {
    name = $2
    if (name in number) {
        if (number[name] == 0)
            return
        order = compare_versions($3, version[name])
        if (order < 0)
            return
        twice[name] = order == 0
    }
    number[name] = $1
    version[name] = $3
    architecture[name] = $4
    depends[name] = $5
    provides[name] = $6
    conflicts[name] = $7
    if ($1 == 0)
        add(name)
}

# Adds a package that is in the directory. Its dependencies follow later.
function choose(name) {
    if (!(name in number))
        return 0
    if (twice[name])
        fail("two files hold version " version[name] " of the package " name)
    chosen[++chosen_count] = name
    add(name)
    return 1
}

function add(name) {
    present[name]
    if (architecture[name] != "all") {
        if (native != "" && native != architecture[name])
            fail("the package " name " is for " architecture[name] ", but other packages are for " native)
        native = architecture[name]
    }
}

# Remembers each name that a package of the directory provides.
function note_provided(text,    list, count, item) {
    count = split(text, list, ",")
    for (item = 1; item <= count; item++) {
        gsub(/^ +| *\(.*| +$/, "", list[item])
        provided_by[list[item]]
    }
}

# Calls `depend` or `conflict` for each relation of a package.
function each_relation(text, owner, kind,    list, count, item) {
    count = split(text, list, ",")
    for (item = 1; item <= count; item++) {
        if (list[item] ~ /^ *$/)
            continue
        if (kind == "depends")
            depend(list[item], owner)
        else
            conflict(list[item], owner)
    }
}

function depend(text, owner,    list, count, item, candidate) {
    count = split(text, list, "|")
    for (item = 1; item <= count; item++) {
        read_relation(list[item], owner)
        if (provider(1, "") != "")
            return
    }
    for (item = 1; item <= count; item++) {
        read_relation(list[item], owner)
        candidate = provider(0, "")
        if (candidate != "") {
            choose(candidate)
            return
        }
    }
    gsub(/^ +| +$/, "", text)
    missing = missing (missing == "" ? "" : "; ") text ", on which " owner " depends"
}

function conflict(text, owner,    other) {
    read_relation(text, owner)
    other = provider(1, owner)
    if (other != "")
        fail("the package " owner " conflicts with the package " other)
}

# Reads NAME, NAME:ARCHITECTURE or NAME (OPERATOR VERSION) into `relation_*`.
function read_relation(text, owner) {
    gsub(/^ +| +$/, "", text)
    relation_name = text
    relation_operator = relation_version = ""
    if (match(text, / *\((<<|<=|=|>=|>>|<|>) *[A-Za-z0-9.+~:-]+ *\)$/)) {
        relation_name = substr(text, 1, RSTART - 1)
        text = substr(text, RSTART)
        gsub(/[ ()]/, "", text)
        match(text, /^[<=>]+/)
        relation_operator = substr(text, 1, RLENGTH)
        relation_version = substr(text, RLENGTH + 1)
    }
    sub(/:[a-z0-9-]+$/, "", relation_name)
    if (relation_name !~ /^[a-z0-9][a-z0-9+.-]*$/)
        fail("the package " owner " has a relation that cannot be read: " relation_name)
}

# The package that meets the relation: one that is present, or else one of the directory; "" if there is none.
# `owner` itself does not count.
function provider(is_present, owner,    name, best) {
    if (relation_name != owner && eligible(relation_name, is_present) && matches(version[relation_name]))
        return relation_name
    if (!(relation_name in provided_by))
        return ""
    for (name in number)
        if (name != owner && eligible(name, is_present) && (best == "" || name < best) && is_provided(name))
            best = name
    return best
}

function eligible(name, is_present) {
    return is_present ? name in present : name in number && !(name in present)
}

# Whether the package provides the name of the relation, in the right version if the relation has one.
function is_provided(name,    list, count, item, provided) {
    count = split(provides[name], list, ",")
    for (item = 1; item <= count; item++) {
        provided = list[item]
        gsub(/[ ()]/, "", provided)
        if (provided == relation_name && relation_operator == "")
            return 1
        if (index(provided, relation_name "=") == 1 && matches(substr(provided, length(relation_name) + 2)))
            return 1
    }
    return 0
}

function matches(candidate,    order) {
    if (relation_operator == "")
        return 1
    order = compare_versions(candidate, relation_version)
    if (relation_operator == "<<")
        return order < 0
    if (relation_operator == ">>")
        return order > 0
    if (relation_operator == "=")
        return order == 0
    return relation_operator ~ /</ ? order <= 0 : order >= 0
}
