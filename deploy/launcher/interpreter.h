/* An interpreter that needs nothing of the host: libpython, linked statically, with cni/plugin.py frozen in.

   What makes it start in a quarter of the time is what it leaves out. `_init_main = 0` ends the start before the paths,
   the codecs and sys.stdout are made; without importlib, the modules the plugin imports are put into sys.modules here;
   and whatever of libpython is defined again below is not linked at all. Both fields of PyConfig are private, so
   the build tries the file before anybody gets it (build.py).

   Nothing here needs a file, a locale, or a variable of the environment. */

#include <Python.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>

#include "plugin_code.h" /* static const unsigned char plugin_code[], by build.py */

/* --- in place of parts of libpython that would be dead weight, or need files of the host */

PyObject *PyInit_errno(void), *PyInit_fcntl(void), *PyInit_posix(void), *PyInit_select(void), *PyInit_time(void);

struct _inittab _PyImport_Inittab[] = { /* config.o, and with it sockets, zlib, expat */
    {"errno", PyInit_errno},   {"fcntl", PyInit_fcntl}, {"posix", PyInit_posix},
    {"select", PyInit_select}, {"time", PyInit_time},   {NULL, NULL},
};

static const struct _frozen frozen[] = {{"plugin", plugin_code, sizeof plugin_code}, {NULL}};
static const struct _frozen nothing[] = {{NULL}};
struct _module_alias {
    const char *name, *original;
};
static const struct _module_alias no_alias[] = {{NULL, NULL}};
const struct _frozen *PyImport_FrozenModules = frozen; /* frozen.o, deepfreeze.o: the frozen part of the library */
const struct _frozen *_PyImport_FrozenBootstrap = nothing, *_PyImport_FrozenStdlib = nothing;
const struct _frozen *_PyImport_FrozenTest = nothing;
const struct _module_alias *_PyImport_FrozenAliases = no_alias;
int _Py_Deepfreeze_Init(void) { return 0; }
void _Py_Deepfreeze_Fini(void) {}

const char *_PyImport_DynLoadFiletab[] = {NULL}; /* dynload_shlib.o, and with it dlopen */
void *_PyImport_FindSharedFuncptr(const char *prefix, const char *name, const char *path, FILE *file) { return NULL; }

int getgrouplist(const char *user, gid_t group, gid_t *groups, int *count) /* of libc: they would load NSS modules */
{
    errno = ENOSYS;
    return -1;
}

int initgroups(const char *user, gid_t group)
{
    errno = ENOSYS;
    return -1;
}

/* --- the start */

static void fail(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static void start_interpreter(void)
{
    PyPreConfig before;
    PyConfig config;

    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* else the locale decides */
    fail(Py_PreInitialize(&before));
    PyConfig_InitIsolatedConfig(&config);
    config.use_hash_seed = 1; /* 0: each start is like any other, and needs no random numbers */
    config._init_main = 0;
    config._install_importlib = 0;
    fail(Py_InitializeFromConfig(&config));
}

/* What importlib does for a module that is built in. The only thing asked of a specification is its name. */
static int add_module(const struct _inittab *entry)
{
    PyObject *spec = PyModule_New(entry->name);
    PyObject *name = PyUnicode_FromString(entry->name);
    PyModuleDef *definition = (PyModuleDef *)entry->initfunc();

    if (!spec || !name || !definition || PyObject_SetAttrString(spec, "name", name) < 0)
        return -1;
    PyObject *module = PyModule_FromDefAndSpec(definition, spec);
    if (!module || PyModule_ExecDef(module, definition) < 0)
        return -1;
    return PyDict_SetItemString(PyImport_GetModuleDict(), entry->name, module);
}

/* The error handlers of codecs, "strict" among them, are not made before somebody has imported this. */
static int add_encodings(void) { return PyImport_AddModule("encodings") ? 0 : -1; }

/* Of sys.argv the plugin wants to know what it was called by; any bytes are good. */
static int set_argv(const char *called)
{
    PyObject *name = PyUnicode_DecodeLatin1(called, strlen(called), NULL);
    PyObject *argv = name ? PyList_New(0) : NULL;

    return !argv || PyList_Append(argv, name) < 0 ? -1 : PySys_SetObject("argv", argv);
}

/* The plugin as a module that has done nothing yet. NULL: an exception says why. */
static PyObject *load_plugin(void)
{
    start_interpreter();
    for (const struct _inittab *entry = _PyImport_Inittab; entry->name; entry++)
        if (add_module(entry) < 0)
            return NULL;
    if (add_encodings() < 0 || PyImport_ImportFrozenModule("plugin") <= 0)
        return NULL;
    return PyImport_AddModule("plugin");
}

/* Leaves by _exit, unless something is wrong. */
static int run_plugin(PyObject *module, const char *called)
{
    signal(SIGPIPE, SIG_IGN); /* as any Python: a daemon that is gone is an error of write(), not our death */
    signal(SIGXFSZ, SIG_IGN);
    if (module && set_argv(called) == 0)
        PyObject_CallMethod(module, "main", NULL);
    PyErr_Print();
    return 1;
}
