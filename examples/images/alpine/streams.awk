# Prints each offset at which a gzip stream can begin. The input is one line of hexadecimal digits.

BEGIN {
    # A package with more matches than this is an attempt to keep the search busy.
    most = 64
}

{
    for (skipped = 0; (at = index($0, "1f8b08")) > 0 && tried++ < most; skipped += at) {
        # A match at an even position begins in the middle of a byte.
        if ((skipped + at) % 2 == 1)
            print (skipped + at - 1) / 2
        $0 = substr($0, at + 1)
    }
}
