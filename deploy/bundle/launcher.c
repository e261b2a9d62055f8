/* Starts a program of the bundle with the bundle's own loader and libraries, wherever the bundle lies. This file is
   linked statically: it needs no shell, no C library and no /proc, as the kernel itself tells how it was called. All
   programs in bin/ are links to it. It answers to the last part of the name it was called by, so what is called from
   elsewhere (/usr/bin/headcni, a link to here) is found by its name as well. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

static char *joined(const char *first, const char *second, const char *third) {
    size_t size = strlen(first) + strlen(second) + strlen(third) + 1;
    char *text = malloc(size);
    if (!text) _exit(127);
    snprintf(text, size, "%s%s%s", first, second, third);
    return text;
}

int main(int count, char **words) {
    const char *called = (const char *)getauxval(AT_EXECFN), *slash = strrchr(called, '/');
    const char *name = slash ? slash + 1 : called;
    char root[PATH_MAX];
    if (!realpath(called, root)) {
        fprintf(stderr, "%s: %s\n", called, strerror(errno));
        return 127;
    }
    for (int levels = 0; levels < 2; levels++) { /* off with /bin/headcni */
        char *last = strrchr(root, '/');
        if (last) *last = 0;
    }

    int is_ours = strcmp(name, "headcni") == 0;
    const char *path = getenv("PATH");
    int has_path = path && *path;
    setenv("PATH", joined(joined(root, "/bin", ""), has_path ? ":" : "", has_path ? path : ""), 1);
    setenv("SSL_CERT_FILE", joined(root, "/etc/ssl/certs/ca-certificates.crt", ""), 0);

    char *command[count + 9], **next = command;
    *next++ = joined(root, "/lib/" TRIPLET "/", LOADER);
    *next++ = "--inhibit-cache"; /* which names libraries of the host */
    *next++ = "--library-path";
    *next++ = joined(root, "/lib/", TRIPLET);
    *next++ = "--argv0";
    *next++ = joined(root, "/bin/", is_ours ? "python3" : name);
    *next++ = joined(root, "/libexec/", is_ours ? "python3" : name);
    if (is_ours) {
        *next++ = "-I";
        *next++ = joined(root, "/libexec/", "headcni.py");
    }
    memcpy(next, words + 1, count * sizeof *words); /* and the null behind them */
    execv(command[0], command);
    fprintf(stderr, "%s: %s\n", command[0], strerror(errno));
    return 127;
}
