# Compares versions of Debian packages, as deb-version(7) defines.

BEGIN {
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    other_characters = "+-.:"
}

# Negative if `a` is lower than `b`, 0 if they are equal, positive if `a` is higher.
function compare_versions(a, b,    a_parts, b_parts, order, item) {
    split_version(a, a_parts)
    split_version(b, b_parts)
    for (item = 1; item <= 3; item++) {
        order = compare_parts(a_parts[item], b_parts[item])
        if (order != 0)
            return order
    }
    return 0
}

# Splits EPOCH:UPSTREAM-REVISION. The epoch and the revision are optional.
function split_version(version, parts) {
    parts[1] = parts[3] = ""
    if (match(version, /^[0-9]*:/)) {
        parts[1] = substr(version, 1, RLENGTH - 1)
        version = substr(version, RLENGTH + 1)
    }
    if (match(version, /-[^-]*$/)) {
        parts[3] = substr(version, RSTART + 1)
        version = substr(version, 1, RSTART - 1)
    }
    parts[2] = version
}

# Text without digits and numbers are compared in turn, from the left.
function compare_parts(a, b,    a_number, b_number, order) {
    while (a != "" || b != "") {
        while (a ~ /^[^0-9]/ || b ~ /^[^0-9]/) {
            order = weight(a) - weight(b)
            if (order != 0)
                return order
            a = substr(a, 2)
            b = substr(b, 2)
        }
        match(a, /^[0-9]*/)
        a_number = substr(a, 1, RLENGTH)
        match(b, /^[0-9]*/)
        b_number = substr(b, 1, RLENGTH)
        a = substr(a, length(a_number) + 1)
        b = substr(b, length(b_number) + 1)
        order = compare_numbers(a_number, b_number)
        if (order != 0)
            return order
    }
    return 0
}

# A tilde is lower than the end, the end is lower than a letter, a letter is lower than another character.
function weight(text,    first) {
    first = substr(text, 1, 1)
    if (first == "~")
        return -1
    if (first == "" || first ~ /[0-9]/)
        return 0
    if (index(letters, first))
        return index(letters, first)
    return length(letters) + index(other_characters, first)
}

# Compares digits as text, because a number can be too long for a machine word.
function compare_numbers(a, b) {
    sub(/^0+/, "", a)
    sub(/^0+/, "", b)
    if (length(a) != length(b))
        return length(a) - length(b)
    if ("n" a == "n" b)
        return 0
    return "n" a < "n" b ? -1 : 1
}
