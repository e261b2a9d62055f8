/* The plugin as one static program: it starts the interpreter, and runs. */

#include "interpreter.h"

int main(int argc, char **argv) { return run_plugin(load_plugin(), argc > 0 ? argv[0] : ""); }
