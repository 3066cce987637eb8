# From "module.mutant: status" lines to a table of modules, and to an error where fewer than 85 % are killed.
# A mutant that ends in a timeout or a crash was noticed; one that no test reaches was not.
$2 != "not" {
    status = $2
    module = $1
    sub(/\.x[_ǁ].*/, "", module)
    total[module]++
    if (status == "killed" || status == "timeout" || status == "segfault" || status == "suspicious") killed[module]++
    else print
}
END {
    for (module in total) {
        printf "%-40s %4d of %4d killed\n", module, killed[module], total[module]
        all += total[module]
        noticed += killed[module]
    }
    printf "%-40s %4d of %4d killed, %.1f %%\n", "all", noticed, all, 100 * noticed / all
    exit noticed < 0.85 * all
}
