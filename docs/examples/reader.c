/* A reader of a Ringfeed ring in C, written from shm_layout.md alone.
 *
 * It attaches as a group of one, reads whole epochs from the next epoch's start on, and prints one line for each pair:
 * epoch, position, id, 1 if the pair is valid, and a checksum (FNV-1a, 64 bits) of the pixels of image and label.
 * It ends with 0, with 1 after a sentence, or with 3 when the daemon is gone.
 *
 *     cc -O2 -o reader docs/examples/reader.c -pthread && ./reader train 8 1
 *
 * Left out, see shm_layout.md: whose files to trust, the next daemon, skipping, reading in place.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RECORD = 64, ID_BYTES = 1024, REASON_BYTES = 960, MAX_DESCRIPTOR = 1 << 20 };
enum { MAX_CATALOGS = 16, DRAIN = 1024, FREE_LANE_MS = 2000, ANSWER_MS = 60000, SLICE_NS = 200 * 1000 * 1000 };
enum { DAEMON_BYTE = 0, FIRST_LANE_BYTE = 1, LANE_ANONYMOUS = 2, START_EPOCH_KIND = 1, ACCEPTED = 1, LEAVE = 1 };
enum { STOPPING = 3, FAILED = 4, GONE = 3 };
/* Offsets: of the state page in the control segment, of words in a slot record, of words in a lane's page. */
enum { STATE = 4096, PUBLISHED = 4104, CATALOG_CHANGES = 4152, STATE_REASON = 5120, SLOT_TABLE = 8192 };
enum { R_SEQ = 0, R_FLAGS = 16, R_IMAGE = 24, R_LABEL = 40, R_ID_LENGTH = 56 };
enum { NONCE = 0, RANK = 8, WORLD_SIZE = 16, BATCH_SIZE = 24, START = 32, PID = 64, FLAGS = 56, GROUP_LENGTH = 72 };
enum { LOOP = 96, GROUP = 128, TAKEN = 512, RELEASED = 520, LEAVING = 528, BATCHES = 576, MISSED_PAIRS = 600 };
enum { ANSWER_NONCE = 2048, ANSWER = 2056, A_SEQ = 2064, A_EPOCH = 2072, A_POSITION = 2080, A_REASON = 3072 };

typedef struct { uint64_t offset, row_bytes, channels, item; } field;
typedef struct { uint64_t seq, epoch, position; } place;
typedef struct { uint64_t first, count; place at, next; } block;

static char ring[65], generation[17];
static uint64_t slots, lanes, changes, since[MAX_CATALOGS], length[MAX_CATALOGS];
static int catalogs, native, lock_fd;
static field image, label;
static const unsigned char *control, *data;
static unsigned char *lane;
static sem_t *space, *bell;

static void die(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(code); /* the kernel drops the lane's lock */
}

static uint64_t load(const unsigned char *at) { return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_acquire); }
static void store(unsigned char *at, uint64_t value) { atomic_store_explicit((_Atomic uint64_t *)at, value, memory_order_release); }
static uint64_t pages(uint64_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

static const char *name(const char *prefix, const char *suffix)
{
    static char text[256];
    snprintf(text, sizeof text, "%sringfeed.%s%s%s%s", prefix, ring, *suffix ? "." : "", *suffix ? generation : "", suffix);
    return text;
}

/* JSON, as far as a descriptor needs it: the value of a key of an object, the following value of an array. */
static const char *skip(const char *p) /* a value; returns what follows it */
{
    int depth = 0;
    do {
        p += strspn(p, " \t\r\n,:");
        if (*p == '"') {
            for (p++; *p && *p != '"'; p++)
                if (*p == '\\' && p[1]) p++;
            p += *p != 0;
        } else if (*p == '{' || *p == '[') {
            depth++, p++;
        } else if (*p == '}' || *p == ']') {
            depth--, p++;
        } else {
            p += strcspn(p, " \t\r\n,:{}[]");
        }
    } while (*p && depth > 0);
    return p + strspn(p, " \t\r\n,:");
}

static const char *get(const char *object, const char *key)
{
    size_t size = strlen(key);
    const char *p = object + strspn(object, " \t\r\n");
    if (*p++ != '{') die(1, "the descriptor is not a ring's: no object where %s should be", key);
    for (p += strspn(p, " \t\r\n"); *p == '"'; p = skip(p)) {
        int found = !strncmp(p + 1, key, size) && p[1 + size] == '"';
        p = skip(p);
        if (found) return p;
    }
    die(1, "the descriptor has no %s", key);
    return NULL;
}

static uint64_t number(const char *object, const char *key) { return strtoull(get(object, key), NULL, 10); }

static field read_field(const char *geometry, const char *key)
{
    const char *object = get(geometry, key), *p = get(object, "row_shape");
    field f = {number(object, "offset"), 1, 1, strncmp(get(object, "dtype"), "\"uint16\"", 8) ? 1 : 2};
    int axis = 0;
    for (p += 1 + strspn(p + 1, " "); *p != ']' && *p; p = skip(p), axis++) {
        f.channels = axis < 2 ? 1 : strtoull(p, NULL, 10);
        f.row_bytes *= strtoull(p, NULL, 10);
    }
    f.row_bytes *= f.item;
    return f;
}

static void read_descriptor(void)
{
    static char text[MAX_DESCRIPTOR + 1];
    char found[17] = "";
    int fd = open(name("/dev/shm/", ""), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) die(GONE, "no daemon serves the ring %s", ring);
    ssize_t size = 0, more;
    while ((more = read(fd, text + size, MAX_DESCRIPTOR - size)) > 0) size += more;
    close(fd);
    text[size] = 0;
    if (number(text, "layout_version") != 3) die(1, "ring %s has another layout version", ring);
    memcpy(found, get(text, "generation") + 1, 16);
    if (*generation && strcmp(found, generation)) die(GONE, "the daemon of ring %s was restarted", ring);
    strcpy(generation, found);
    const char *geometry = get(text, "geometry"), *p = get(text, "catalogs") + 1;
    slots = number(geometry, "slots"), lanes = number(geometry, "lanes");
    image = read_field(geometry, "image"), label = read_field(geometry, "label");
    native = !strncmp(get(get(text, "identity"), "fit"), "\"native\"", 8);
    for (catalogs = 0; *(p += strspn(p, " \t\r\n")) == '{' && catalogs < MAX_CATALOGS; p = skip(p), catalogs++) {
        since[catalogs] = number(p, "since_epoch");
        length[catalogs] = number(p, "epoch_length");
    }
    changes = number(text, "catalog_changes");
}

static int lock(short kind, off_t byte, int command) /* F_OFD_SETLK: 1 if it was done; F_OFD_GETLK: 1 if it is locked */
{
    struct flock request = {.l_type = kind, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int done = fcntl(lock_fd, command, &request) == 0;
    return command == F_OFD_GETLK ? done && request.l_type != F_UNLCK : done;
}

static int gone(void)
{
    uint64_t state = load(control + STATE);
    return state == STOPPING || state == FAILED || !lock(F_WRLCK, DAEMON_BYTE, F_OFD_GETLK);
}

static void die_gone(void)
{
    int size = load(control + STATE_REASON) < REASON_BYTES ? (int)load(control + STATE_REASON) : REASON_BYTES;
    die(GONE, "the daemon of ring %s is gone. %.*s", ring, size, (const char *)control + STATE_REASON + 8);
}

static void wait_slice(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (until.tv_nsec + SLICE_NS) / 1000000000;
    until.tv_nsec = (until.tv_nsec + SLICE_NS) % 1000000000;
    sem_clockwait(bell, CLOCK_MONOTONIC, &until);
}

static uint64_t milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

static const unsigned char *map(const char *suffix, uint64_t size)
{
    int fd = open(name("/dev/shm/", suffix), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts)) die(GONE, "%s: %s", name("", suffix), strerror(errno));
    if ((uint64_t)facts.st_size != size) die(1, "%s has %jd bytes, and not %" PRIu64, name("", suffix), (intmax_t)facts.st_size, size);
    void *found = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (found == MAP_FAILED) die(1, "%s: %s", name("", suffix), strerror(errno));
    close(fd);
    return found;
}

static void open_ring(void)
{
    read_descriptor();
    control = map(".ctl", SLOT_TABLE + pages(slots * RECORD) + pages(slots * ID_BYTES) + lanes * PAGE);
    data = map(".data", label.offset + pages(slots * label.row_bytes));
    lock_fd = open(name("/dev/shm/", ".ctl"), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK); /* not mapped */
    if (lock_fd < 0) die(GONE, "%s: %s", name("", ".ctl"), strerror(errno));
    if (memcmp(control, "ringfeed", 8) || load(control + 8) != 3 || load(control + 16) != strtoull(generation, NULL, 16))
        die(1, "%s is not the descriptor's control segment", name("", ".ctl"));
    if (gone()) die_gone();
}

static uint64_t lane_offset(uint64_t i) { return SLOT_TABLE + pages(slots * RECORD) + pages(slots * ID_BYTES) + i * PAGE; }

static uint64_t claim_lane(void)
{
    for (uint64_t began = milliseconds(); milliseconds() - began < FREE_LANE_MS; usleep(10000))
        for (uint64_t i = 0; i < lanes; i++) {
            if (load(control + lane_offset(i) + ANSWER_NONCE) || !lock(F_WRLCK, FIRST_LANE_BYTE + i, F_OFD_SETLK)) continue;
            if (!load(control + lane_offset(i) + ANSWER_NONCE)) return i;
            lock(F_UNLCK, FIRST_LANE_BYTE + i, F_OFD_SETLK);
        }
    die(1, "all %" PRIu64 " lanes of ring %s are taken", lanes, ring);
    return 0;
}

static void open_lane(uint64_t i)
{
    char suffix[32];
    uint64_t begin = lane_offset(i), whole = begin / sysconf(_SC_PAGESIZE) * sysconf(_SC_PAGESIZE);
    int fd = open(name("/dev/shm/", ".ctl"), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    void *found = mmap(NULL, begin + PAGE - whole, PROT_READ | PROT_WRITE, MAP_SHARED, fd, whole);
    if (fd < 0 || found == MAP_FAILED) die(1, "%s: %s", name("", ".ctl"), strerror(errno));
    close(fd);
    lane = (unsigned char *)found + (begin - whole);
    snprintf(suffix, sizeof suffix, ".lane.%" PRIu64, i);
    space = sem_open(name("/", ".space"), 0);
    bell = sem_open(name("/", suffix), 0);
    if (space == SEM_FAILED || bell == SEM_FAILED) die(GONE, "no semaphores: %s", strerror(errno));
    for (int n = 0; n < DRAIN && sem_trywait(bell) == 0; n++) continue;
}

static void detach(uint64_t i)
{
    store(lane + LEAVING, LEAVE);
    lock(F_UNLCK, FIRST_LANE_BYTE + i, F_OFD_SETLK);
    sem_post(space);
}

static place attach(uint64_t i, uint64_t batch_size)
{
    char group[64];
    uint64_t nonce = 0, began = milliseconds();
    while (!nonce)
        if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce) nonce = 0;
    snprintf(group, sizeof group, "reader.c-%d-%016" PRIx64, (int)getpid(), nonce);
    store(lane + NONCE, 0);
    for (int word = TAKEN; word <= LEAVING; word += 8) store(lane + word, 0);
    for (int word = BATCHES; word <= MISSED_PAIRS; word += 8) store(lane + word, 0);
    for (int word = RANK; word <= LOOP; word += 8) store(lane + word, 0);
    store(lane + WORLD_SIZE, 1);
    store(lane + BATCH_SIZE, batch_size);
    store(lane + START, START_EPOCH_KIND);
    store(lane + FLAGS, LANE_ANONYMOUS);
    store(lane + PID, getpid());
    store(lane + GROUP_LENGTH, strlen(group));
    memcpy(lane + GROUP, group, strlen(group));
    store(lane + NONCE, nonce);
    sem_post(space);
    while (load(lane + ANSWER_NONCE) != nonce && milliseconds() - began < ANSWER_MS) {
        wait_slice();
        if (gone()) die_gone();
    }
    if (load(lane + ANSWER_NONCE) != nonce || load(lane + ANSWER) != ACCEPTED) {
        int size = load(lane + A_REASON) < REASON_BYTES ? (int)load(lane + A_REASON) : REASON_BYTES;
        detach(i);
        die(1, "refused: %.*s", size, (char *)lane + A_REASON + 8);
    }
    return (place){load(lane + A_SEQ), load(lane + A_EPOCH), load(lane + A_POSITION)};
}

static uint64_t epoch_length(uint64_t epoch)
{
    int last = catalogs - 1;
    while (last > 0 && since[last] > epoch) last--;
    return length[last];
}

/* The block at a place: a group of one reads the whole round. */
static block block_at(place at, uint64_t batch_size)
{
    if (at.position >= epoch_length(at.epoch)) at.epoch++, at.position = 0;
    uint64_t left = epoch_length(at.epoch) - at.position, count = left < batch_size ? left : batch_size;
    place next = {at.seq + count, at.epoch, at.position + count};
    if (count == left) next.epoch++, next.position = 0;
    return (block){at.seq, count, at, next};
}

static uint64_t checksum(uint64_t sum, const field *f, uint64_t slot, const unsigned char *sizes)
{
    uint64_t size = native ? load(sizes) * load(sizes + 8) * f->channels * f->item : f->row_bytes;
    const unsigned char *pixels = data + f->offset + slot * f->row_bytes;
    for (uint64_t i = 0; i < size && i < f->row_bytes; i++) sum = (sum ^ pixels[i]) * 1099511628211ull;
    return sum;
}

static void print_pair(const block *b, uint64_t i)
{
    uint64_t seq = b->first + i, slot = seq % slots, id_size;
    const unsigned char *record = control + SLOT_TABLE + slot * RECORD;
    const unsigned char *id = control + SLOT_TABLE + pages(slots * RECORD) + slot * ID_BYTES;
    if (load(record + R_SEQ) != seq) die(1, "slot %" PRIu64 " holds another pair than %" PRIu64, slot, seq);
    id_size = load(record + R_ID_LENGTH) < ID_BYTES ? load(record + R_ID_LENGTH) : ID_BYTES;
    uint64_t sum = checksum(14695981039346656037ull, &image, slot, record + R_IMAGE);
    sum = checksum(sum, &label, slot, record + R_LABEL);
    printf("%" PRIu64 " %" PRIu64 " %d %016" PRIx64 " %.*s\n", b->at.epoch, b->at.position + i,
           (int)(load(record + R_FLAGS) & 1), sum, (int)id_size, (const char *)id);
}

static void wait_for(uint64_t end)
{
    if (load(control + PUBLISHED) >= end) {
        sem_trywait(bell);
        return;
    }
    for (;;) {
        wait_slice();
        int stopped = gone(); /* first STATE and the lock, then PUBLISHED once more */
        if (load(control + PUBLISHED) >= end) return;
        if (stopped) die_gone();
    }
}

int main(int argc, char **argv)
{
    if (argc != 4 || strlen(argv[1]) >= sizeof ring || strtoull(argv[2], NULL, 10) < 1)
        die(1, "usage: reader RING BATCH_SIZE EPOCHS");
    strcpy(ring, argv[1]);
    uint64_t batch_size = strtoull(argv[2], NULL, 10), epochs = strtoull(argv[3], NULL, 10);
    open_ring();
    uint64_t i = claim_lane();
    open_lane(i);
    place at = attach(i, batch_size);
    if (load(control + CATALOG_CHANGES) > changes) read_descriptor();
    block b = block_at(at, batch_size);
    store(lane + TAKEN, b.first);
    store(lane + RELEASED, b.first);
    for (uint64_t end = at.epoch + epochs; b.at.epoch < end;) {
        wait_for(b.first + b.count);
        if (load(control + CATALOG_CHANGES) > changes) { /* after PUBLISHED */
            read_descriptor();
            b = block_at(b.at, batch_size);
            continue;
        }
        store(lane + TAKEN, b.next.seq);
        for (uint64_t n = 0; n < b.count; n++) print_pair(&b, n);
        store(lane + RELEASED, b.next.seq);
        sem_post(space);
        b = block_at(b.next, batch_size);
    }
    detach(i);
    return fflush(stdout) ? 1 : 0;
}
