/* malloc for a process that is written to a file and goes on in other processes.

   Until it is sealed every block comes out of one region, which lies in the program itself, so that it is in the file
   with all else. Then more is asked of the kernel: by the MiB, or block by block for big ones. There is one thread.
   A block has its capacity before it; freed ones are kept by capacity. */

#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define GRAIN 16
#define SMALL 1024u           /* up to here there is a list for each multiple of GRAIN, then for each power of two */
#define BIG ((size_t)64 << 10) /* from here on a block is a mapping of its own */
#define CHUNK (1 << 20)
#define REGION (8 << 20)

typedef union {
    size_t capacity;
    char alignment[GRAIN];
} header;

static char region[REGION] __attribute__((section(".region"), aligned(4096)));
static char *next = region, *end = region + REGION;
static int sealed;
static header *freed[SMALL / GRAIN + 64];

void memory_seal(void) { sealed = 1; }

static size_t rounded(size_t size)
{
    if (size <= SMALL)
        return size ? (size + GRAIN - 1) / GRAIN * GRAIN : GRAIN;
    return (size_t)1 << (64 - __builtin_clzl(size - 1));
}

static header **list_of(size_t capacity)
{
    return &freed[capacity <= SMALL ? capacity / GRAIN : SMALL / GRAIN + 63 - __builtin_clzl(capacity)];
}

static void *from_kernel(size_t size)
{
    void *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapping == MAP_FAILED ? NULL : mapping;
}

static header *carved(size_t size)
{
    if (size > (size_t)(end - next)) {
        char *chunk = sealed ? from_kernel(CHUNK) : NULL;
        if (!chunk)
            return NULL;
        next = chunk;
        end = chunk + CHUNK;
    }
    next += size;
    return (header *)(next - size);
}

static int is_mapping(const header *block)
{
    return block->capacity > BIG && ((char *)block < region || (char *)block >= region + REGION);
}

void *malloc(size_t size)
{
    size_t capacity = size < PTRDIFF_MAX / 2 ? rounded(size) : 0;
    header *block = NULL;

    if (capacity > BIG && sealed) {
        capacity = size;
        block = from_kernel(sizeof(header) + capacity);
    } else if (capacity && (block = *list_of(capacity))) {
        memcpy(list_of(capacity), block + 1, sizeof block);
    } else if (capacity) {
        block = carved(sizeof(header) + capacity);
    }
    if (!block) {
        errno = ENOMEM;
        return NULL;
    }
    block->capacity = capacity;
    return block + 1;
}

void free(void *pointer)
{
    header *block = (header *)pointer - 1;

    if (!pointer)
        return;
    if (is_mapping(block)) {
        munmap(block, sizeof(header) + block->capacity);
        return;
    }
    header **list = list_of(block->capacity);
    memcpy(pointer, list, sizeof *list);
    *list = block;
}

void *calloc(size_t count, size_t size)
{
    size_t whole;
    void *pointer = __builtin_mul_overflow(count, size, &whole) ? NULL : malloc(whole);

    return pointer ? memset(pointer, 0, whole) : NULL;
}

void *realloc(void *pointer, size_t size)
{
    size_t capacity = pointer ? ((header *)pointer - 1)->capacity : 0;

    if (pointer && size <= capacity && size >= capacity / 4)
        return pointer;
    void *moved = malloc(size);
    if (moved && pointer) {
        memcpy(moved, pointer, size < capacity ? size : capacity);
        free(pointer);
    }
    return moved;
}
