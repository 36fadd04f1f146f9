# Finds the only entry of the package `name` in an Alpine index, and prints its version, size and checksum.
# It fails if there is no such entry, if there are several, or if a field is not of the known form.

BEGIN {
    RS = ""
    FS = "\n"
}

{
    delete field
    for (line = 1; line <= NF; line++)
        field[substr($line, 1, 2)] = substr($line, 3)
    if (field["P:"] == name) {
        entries++
        version = field["V:"]
        size = field["S:"]
        checksum = field["C:"]
    }
}

END {
    if (entries != 1 || version !~ /^[0-9A-Za-z._~-]+$/ || size !~ /^[0-9]+$/ ||
        checksum !~ /^Q1[0-9A-Za-z+\/]+=$/)
        exit 1
    print version, size, checksum
}
