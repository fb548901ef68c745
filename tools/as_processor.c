/* Makes the libraries of a process see an older x86-64 processor than the one it runs on; tools/as_processor.py loads it.
 *
 * Loaded with LD_AUDIT, it sees every library after it is mapped and before its first instruction runs, and replaces
 * each CPUID instruction (0F A2) by INT3, NOP. The trap's handler runs CPUID and clears the features that the processor
 * named in AS_PROCESSOR does not have, so kernels are chosen as they would be there, and run at this machine's speed.
 * The dynamic linker itself is left alone: it has asked before anything is loaded (GLIBC_TUNABLES speaks to it).
 *
 * Loaded with LD_PRELOAD, too, it gives programs that read /proc/cpuinfo one whose flags are those that CPUID shows.
 *
 * The two bytes 0F A2 also stand inside of other instructions. Where instructions begin is found by decoding from many
 * places before them: x86 code falls into step within a few instructions, so at a real CPUID nearly all agree.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum reg { EAX, EBX, ECX, EDX };
enum level { SSE4, AVX2, AVX512, THIS_MACHINE };

/* Bits of CPUID, the name that /proc/cpuinfo has for each, and the first of our processors that has it. Those that
 * every one has (SSE2 … SSE4.2) are left out. Intel SDM volume 2, CPUID; AVX2 is Haswell, AVX512 is Skylake-SP. */
static const struct {
    uint32_t leaf, subleaf;
    enum reg reg;
    int bit;
    const char *name;
    enum level since;
} FEATURES[] = {
    {1, 0, ECX, 12, "fma", AVX2}, {1, 0, ECX, 22, "movbe", AVX2}, {1, 0, ECX, 26, "xsave", AVX2},
    {1, 0, ECX, 27, "osxsave", AVX2}, {1, 0, ECX, 28, "avx", AVX2}, {1, 0, ECX, 29, "f16c", AVX2},
    {7, 0, EBX, 3, "bmi1", AVX2}, {7, 0, EBX, 5, "avx2", AVX2}, {7, 0, EBX, 8, "bmi2", AVX2},
    {7, 0, EBX, 16, "avx512f", AVX512}, {7, 0, EBX, 17, "avx512dq", AVX512}, {7, 0, EBX, 28, "avx512cd", AVX512},
    {7, 0, EBX, 30, "avx512bw", AVX512}, {7, 0, EBX, 31, "avx512vl", AVX512},
    {7, 0, EBX, 21, "avx512ifma", THIS_MACHINE}, {7, 0, EBX, 29, "sha_ni", THIS_MACHINE},
    {7, 0, ECX, 1, "avx512vbmi", THIS_MACHINE}, {7, 0, ECX, 6, "avx512_vbmi2", THIS_MACHINE},
    {7, 0, ECX, 8, "gfni", THIS_MACHINE}, {7, 0, ECX, 9, "vaes", THIS_MACHINE},
    {7, 0, ECX, 10, "vpclmulqdq", THIS_MACHINE}, {7, 0, ECX, 11, "avx512_vnni", THIS_MACHINE},
    {7, 0, ECX, 12, "avx512_bitalg", THIS_MACHINE}, {7, 0, ECX, 14, "avx512_vpopcntdq", THIS_MACHINE},
    {7, 0, EDX, 2, "avx512_4vnniw", THIS_MACHINE}, {7, 0, EDX, 3, "avx512_4fmaps", THIS_MACHINE},
    {7, 0, EDX, 8, "avx512_vp2intersect", THIS_MACHINE}, {7, 0, EDX, 22, "amx_bf16", THIS_MACHINE},
    {7, 0, EDX, 23, "avx512_fp16", THIS_MACHINE}, {7, 0, EDX, 24, "amx_tile", THIS_MACHINE},
    {7, 0, EDX, 25, "amx_int8", THIS_MACHINE}, {7, 1, EAX, 4, "avx_vnni", THIS_MACHINE},
    {7, 1, EAX, 5, "avx512_bf16", THIS_MACHINE}, {7, 1, EAX, 21, "amx_fp16", THIS_MACHINE},
    {7, 1, EAX, 23, "avx_ifma", THIS_MACHINE}, {7, 1, EDX, 4, "avx_vnni_int8", THIS_MACHINE},
    {7, 1, EDX, 5, "avx_ne_convert", THIS_MACHINE}, {7, 1, EDX, 8, "amx_complex", THIS_MACHINE},
    {7, 1, EDX, 10, "avx_vnni_int16", THIS_MACHINE}, {7, 1, EDX, 19, "avx10", THIS_MACHINE},
};
enum { NUM_FEATURES = sizeof FEATURES / sizeof *FEATURES };

static void fail(const char *why, const char *what) {
    fprintf(stderr, "as_processor: %s: %s\n", why, what);
    _exit(125); /* As `env` and `timeout` exit when they themselves fail. */
}

static enum level asked(void) {
    const char *name = getenv("AS_PROCESSOR");
    if (name && !strcmp(name, "sse4")) return SSE4;
    if (name && !strcmp(name, "avx2")) return AVX2;
    if (name && !strcmp(name, "avx512")) return AVX512;
    fail("AS_PROCESSOR is none of sse4, avx2, avx512", name ? name : "not set");
    return THIS_MACHINE;
}

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
    __asm__ volatile("cpuid" : "=a"(out[EAX]), "=b"(out[EBX]), "=c"(out[ECX]), "=d"(out[EDX]) : "a"(leaf), "c"(subleaf));
}

/* ---- where instructions begin ---------------------------------------------------------------------------------- */

static int is_one_of(const char *set, uint8_t byte) { return byte && strchr(set, byte) != NULL; }

/* Length of ModRM, SIB and displacement. */
static int operand_length(const uint8_t *modrm) {
    int mod = modrm[0] >> 6, rm = modrm[0] & 7;
    int length = 1 + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
    if (mod == 3) return 1;
    if (rm == 4) {
        length++;
        if (mod == 0 && (modrm[1] & 7) == 5) length += 4;
    } else if (mod == 0 && rm == 5) {
        length += 4;
    }
    return length;
}

/* Length from the opcode on in the maps 0F, 0F38 and 0F3A, which VEX and EVEX prefixes name as 1, 2 and 3. */
static int mapped_length(const uint8_t *code, int map, int extended) {
    uint8_t op = code[0];
    if (map == 2) return 1 + operand_length(code + 1);
    if (map == 3) return 2 + operand_length(code + 1);
    if (map != 1) return 0;
    if (op == 0x77) return 1;
    if (!extended) {
        if (op >= 0x80 && op <= 0x8f) return 5;
        if ((op >= 0x30 && op <= 0x37) || (op >= 0xc8 && op <= 0xcf)) return 1;
        if (is_one_of("\x05\x06\x07\x08\x09\x0b\x0e\xa0\xa1\xa2\xa8\xa9\xaa", op)) return 1;
    }
    return 1 + operand_length(code + 1) + (is_one_of("\x0f\x70\x71\x72\x73\xa4\xac\xba\xc2\xc4\xc5\xc6", op) ? 1 : 0);
}

/* Length of the instruction in 64-bit code (Intel SDM volume 2, appendix A); 0 for what is none. */
static int instruction_length(const uint8_t *code) {
    const uint8_t *at = code;
    int short_immediate = 0, wide = 0;
    while (is_one_of("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3", *at)) {
        if (*at++ == 0x66) short_immediate = 1;
        if (at - code > 14) return 0;
    }
    if ((*at & 0xf0) == 0x40) wide = *at++ & 8;
    int prefixes = (int)(at - code), immediate = short_immediate && !wide ? 2 : 4, map = 0;
    uint8_t op = *at;
    if (op == 0x0f && at[1] != 0x38 && at[1] != 0x3a) return (map = mapped_length(at + 1, 1, 0)) ? prefixes + 1 + map : 0;
    if (op == 0x0f) return prefixes + 2 + mapped_length(at + 2, at[1] == 0x38 ? 2 : 3, 0);
    if (op == 0xc5) return prefixes + 2 + mapped_length(at + 2, 1, 1);
    if (op == 0xc4) return (map = mapped_length(at + 3, at[1] & 31, 1)) ? prefixes + 3 + map : 0;
    if (op == 0x62) return (map = mapped_length(at + 4, at[1] & 7, 1)) ? prefixes + 4 + map : 0;
    if (is_one_of("\x06\x07\x0e\x16\x17\x1e\x1f\x27\x2f\x37\x3f\x60\x61\x82\x9a\xce\xd4\xd5\xd6\xea", op)) return 0;
    if (op < 0x40) {
        if ((op & 7) < 4) return prefixes + 1 + operand_length(at + 1);
        return prefixes + 1 + ((op & 7) == 4 ? 1 : immediate);
    }
    if (op == 0x63 || op == 0x8d || (op >= 0x84 && op <= 0x8f) || (op >= 0xd0 && op <= 0xd3) || (op >= 0xd8 && op <= 0xdf) ||
        op >= 0xfe)
        return prefixes + 1 + operand_length(at + 1);
    if (is_one_of("\x6b\x80\x83\xc0\xc1\xc6", op)) return prefixes + 2 + operand_length(at + 1);
    if (is_one_of("\x69\x81\xc7", op)) return prefixes + 1 + operand_length(at + 1) + immediate;
    if (op == 0xf6 || op == 0xf7) {
        int has_immediate = ((at[1] >> 3) & 7) < 2;
        return prefixes + 1 + operand_length(at + 1) + (has_immediate ? (op == 0xf6 ? 1 : immediate) : 0);
    }
    if (op >= 0xa0 && op <= 0xa3) return prefixes + 9;
    if (op >= 0xb8 && op <= 0xbf) return prefixes + 1 + (wide ? 8 : immediate);
    if (op == 0x68 || op == 0xa9) return prefixes + 1 + immediate;
    if (op == 0xe8 || op == 0xe9) return prefixes + 5;
    if (op == 0xc2 || op == 0xca) return prefixes + 3;
    if (op == 0xc8) return prefixes + 4;
    if (op == 0x6a || op == 0xa8 || op == 0xcd || op == 0xeb || (op >= 0x70 && op <= 0x7f) || (op >= 0xb0 && op <= 0xb7) ||
        (op >= 0xe0 && op <= 0xe7))
        return prefixes + 2;
    return prefixes + 1;
}

enum { NEAREST = 24, FARTHEST = 88 };

/* Share in percent, of the places before `hit`, from which decoding arrives exactly there. */
static int agreement(const uint8_t *begin, const uint8_t *hit) {
    int arrived = 0, tried = 0;
    for (const uint8_t *from = hit - NEAREST; from > hit - FARTHEST && from >= begin; from--) {
        const uint8_t *at = from;
        while (at < hit) {
            int length = instruction_length(at);
            if (!length) break;
            at += length;
        }
        if (at < hit) continue; /* Came upon what is no instruction: says nothing. */
        tried++;
        arrived += at == hit;
    }
    return tried ? 100 * arrived / tried : 0;
}

/* ---- LD_AUDIT: CPUID answers as the processor that was asked for ------------------------------------------------ */

enum { MOST_SITES = 65536 };
static const uint8_t *sites[MOST_SITES];
static int num_sites;
static enum level level;

static void on_trap(int number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *site = (const uint8_t *)regs[REG_RIP] - 1;
    int i = 0;
    while (i < num_sites && sites[i] != site) i++;
    if (i == num_sites) { /* A trap of somebody else's. */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    uint32_t leaf = (uint32_t)regs[REG_RAX], subleaf = (uint32_t)regs[REG_RCX], out[4];
    cpuid(leaf, subleaf, out);
    for (int f = 0; f < NUM_FEATURES; f++) {
        int here = FEATURES[f].leaf == leaf && (leaf != 7 || FEATURES[f].subleaf == subleaf);
        if (here && FEATURES[f].since > level) out[FEATURES[f].reg] &= ~(1u << FEATURES[f].bit);
    }
    if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) memset(out, 0, sizeof out); /* AMX tiles, AVX10. */
    regs[REG_RAX] = out[EAX];
    regs[REG_RBX] = out[EBX];
    regs[REG_RCX] = out[ECX];
    regs[REG_RDX] = out[EDX];
    regs[REG_RIP]++;
}

static void replace_cpuid(uint8_t *begin, uint8_t *end, int protection, const char *name) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (uint8_t *hit = begin; hit < end && (hit = memmem(hit, (size_t)(end - hit), "\x0f\xa2", 2)) != NULL; hit += 2) {
        int percent = agreement(begin, hit);
        if (getenv("AS_PROCESSOR_SITES")) fprintf(stderr, "as_processor: %s %lx %d\n", name, hit - begin, percent);
        if (percent < 60) continue;
        if (num_sites == MOST_SITES) fail("too many CPUID instructions", name);
        uintptr_t first = (uintptr_t)hit & ~(page - 1), last = ((uintptr_t)hit + 2 + page - 1) & ~(page - 1);
        if (mprotect((void *)first, last - first, PROT_READ | PROT_WRITE | PROT_EXEC)) fail("code cannot be changed", name);
        sites[num_sites++] = hit;
        hit[0] = 0xcc;
        hit[1] = 0x90;
        if (mprotect((void *)first, last - first, protection)) fail("code cannot be protected again", name);
    }
}

static int is_dynamic_linker(const char *name) {
    return strstr(name, "/ld-linux") != NULL || strstr(name, "/ld-2.") != NULL || strstr(name, "linux-vdso") != NULL;
}

unsigned int la_version(unsigned int version) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    level = asked();
    if (sigaction(SIGTRAP, &action, NULL)) fail("no handler for SIGTRAP", "sigaction");
    return version < LAV_CURRENT ? version : LAV_CURRENT;
}

unsigned int la_objopen(struct link_map *map, Lmid_t lmid, uintptr_t *cookie) {
    (void)cookie;
    const char *name = map->l_name && *map->l_name ? map->l_name : "the program";
    if (lmid != LM_ID_BASE || is_dynamic_linker(name)) return 0;
    int is_program = !map->l_name || !*map->l_name;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)map->l_addr;
    const ElfW(Phdr) *part;
    int parts;
    if (is_program) {
        part = (const ElfW(Phdr) *)getauxval(AT_PHDR);
        parts = (int)getauxval(AT_PHNUM);
    } else if (!memcmp(header->e_ident, ELFMAG, SELFMAG)) {
        part = (const ElfW(Phdr) *)(map->l_addr + header->e_phoff);
        parts = header->e_phnum;
    } else {
        fail("a library does not begin with its ELF header", name);
        return 0;
    }
    for (; parts--; part++) {
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        uint8_t *begin = (uint8_t *)(map->l_addr + part->p_vaddr);
        int protection = PROT_EXEC | (part->p_flags & PF_R ? PROT_READ : 0) | (part->p_flags & PF_W ? PROT_WRITE : 0);
        replace_cpuid(begin, begin + part->p_filesz, protection, name);
    }
    return 0;
}

/* ---- LD_PRELOAD: /proc/cpuinfo says what CPUID says ------------------------------------------------------------- */

static int is_hidden(const char *flag, size_t length) {
    for (int f = 0; f < NUM_FEATURES; f++) {
        uint32_t out[4];
        if (strlen(FEATURES[f].name) != length || memcmp(FEATURES[f].name, flag, length)) continue;
        cpuid(0, 0, out);
        if (out[EAX] < FEATURES[f].leaf) return 1;
        cpuid(FEATURES[f].leaf, FEATURES[f].subleaf, out);
        return !(out[FEATURES[f].reg] >> FEATURES[f].bit & 1);
    }
    return 0;
}

/* A file in memory with the kernel's text, less the flags that CPUID does not show. */
static int cpuinfo(void) {
    FILE *(*real_fopen)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    FILE *in = real_fopen("/proc/cpuinfo", "r");
    int fd = memfd_create("cpuinfo", 0);
    FILE *out = fd < 0 ? NULL : fdopen(dup(fd), "w");
    char *line = NULL;
    size_t room = 0;
    if (!in || !out) fail("/proc/cpuinfo cannot be told anew", "memfd_create");
    while (getline(&line, &room, in) > 0) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "flags", 5) || !colon) {
            fputs(line, out);
            continue;
        }
        fprintf(out, "%.*s", (int)(colon + 1 - line), line);
        for (char *flag = strtok(colon + 1, " \n"); flag; flag = strtok(NULL, " \n"))
            if (!is_hidden(flag, strlen(flag))) fprintf(out, " %s", flag);
        fputc('\n', out);
    }
    free(line);
    fclose(in);
    fclose(out);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int is_cpuinfo(const char *path) { return path && !strcmp(path, "/proc/cpuinfo"); }

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...) {                                         \
        if (is_cpuinfo(path)) return cpuinfo();                                          \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = va_arg(rest, mode_t);                                              \
        va_end(rest);                                                                    \
        return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
    }

#define OPENAT(name)                                                                     \
    int name(int folder, const char *path, int flags, ...) {                             \
        if (is_cpuinfo(path)) return cpuinfo();                                          \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = va_arg(rest, mode_t);                                              \
        va_end(rest);                                                                    \
        return ((int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name))(folder, path, flags, mode); \
    }

#define FOPEN(name)                                                                      \
    FILE *name(const char *path, const char *mode) {                                     \
        if (is_cpuinfo(path)) return fdopen(cpuinfo(), "r");                             \
        return ((FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #name))(path, mode); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
