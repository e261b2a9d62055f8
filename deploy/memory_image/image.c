/* The plugin in an interpreter that has started already: a program that writes itself to a file as it is in memory.

   Run for the first time (`plugin` is NULL) it starts the interpreter, loads the plugin and writes its writable
   segments to standard output; build.py puts them into a copy of the program in place of those it began with. That copy
   finds `plugin` set, and runs it. It enters as any program does: libc starts anew over its old data, which gives it
   thread pointer, environment, auxiliary vector and stack guard of the process it is in. What libc would not make
   anew is not used: its malloc (memory.c), its clock (below), its buffered streams. */

#include "../launcher/interpreter.h"
#include "memory.h"

#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static PyObject *plugin, *environment;

/* libc remembers where the kernel mapped its own clock, which is elsewhere in the next process. */
int __clock_gettime(clockid_t clock, struct timespec *now) { return syscall(SYS_clock_gettime, clock, now); }
int clock_gettime(clockid_t clock, struct timespec *now) { return syscall(SYS_clock_gettime, clock, now); }

static int start_once(void)
{
    PyObject *posix;

    setenv("TZ", "UTC0", 1); /* else the time module remembers the zone of this machine */
    plugin = load_plugin();
    PyGC_Disable();
    if (!plugin || !(posix = PyImport_AddModule("posix")) || !(environment = PyObject_GetAttrString(posix, "environ")))
        return -1;
    return 0;
}

/* The process id and the stack guard, which each process gets anew; so that two images are the same, byte for byte. */
static void forget_this_process(void)
{
    extern uintptr_t __stack_chk_guard;
    const uintptr_t guard = __stack_chk_guard;
    const int me = (int)syscall(SYS_gettid);
    char *thread = (char *)pthread_self();

    for (size_t at = 0; at < 256; at += sizeof me)
        if (*(int *)(thread + at) == me)
            *(int *)(thread + at) = 0;
    for (size_t at = 0; at < 256; at += sizeof guard)
        if (*(uintptr_t *)(thread + at) == guard)
            *(uintptr_t *)(thread + at) = 0;
    __stack_chk_guard = 0;
    PyThreadState_Get()->native_thread_id = 0;
}

static void write_segments(void)
{
    const Elf64_Phdr *header = (const Elf64_Phdr *)getauxval(AT_PHDR);

    for (unsigned long count = getauxval(AT_PHNUM); count--; header++)
        if (header->p_type == PT_LOAD && header->p_flags & PF_W)
            for (size_t done = 0; done < header->p_memsz;) {
                ssize_t size = write(1, (char *)header->p_vaddr + done, header->p_memsz - done);
                if (size <= 0)
                    _exit(1);
                done += size;
            }
}

/* As posixmodule.c makes it. */
static int read_environment(void)
{
    PyDict_Clear(environment);
    for (char **each = environ; each && *each; each++) {
        const char *equals = strchr(*each, '=');
        PyObject *name, *value;

        if (!equals)
            continue;
        name = PyBytes_FromStringAndSize(*each, equals - *each);
        value = PyBytes_FromString(equals + 1);
        if (!name || !value || !PyDict_SetDefault(environment, name, value))
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (plugin)
        return run_plugin(read_environment() < 0 ? NULL : plugin, argc > 0 ? argv[0] : "");
    if (start_once() < 0) {
        PyErr_Print();
        return 1;
    }
    memory_seal();
    forget_this_process();
    write_segments();
    _exit(0);
}
