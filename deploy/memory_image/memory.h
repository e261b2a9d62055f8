/* From now on memory comes from the kernel: what there is until then is in the file. */
void memory_seal(void);
