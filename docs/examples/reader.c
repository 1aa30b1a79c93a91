/* A reader of a Ringfeed ring in C, written from shm_layout.md alone.
 *
 *     cc -O2 -pthread -o reader docs/examples/reader.c && ./reader train 8 1
 *
 * It attaches as a group of one, with batches of 8, and reads 1 epoch. It prints one line for each pair: epoch, position,
 * 1 if the pair is valid, a checksum of its pixels (FNV-1a of 64 bits, over image and label), and its id.
 * It exits with 0, with 1 after a sentence, and with 3 where the daemon is gone.
 *
 * See shm_layout.md for what it leaves out: which files to trust, the next daemon, skipping, reading in place, ranks.
 */
#define _GNU_SOURCE
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

#define PAGES(size) (((size) + PAGE - 1) / PAGE * PAGE)
#define SECOND 1000000000ull /* ns */

enum { PAGE = 4096, RECORD = 64, ID_BYTES = 1024, REASON_BYTES = 960, MAX_DESCRIPTOR = 1 << 20, MAX_CATALOGS = 16, DRAIN = 1024 };
enum { DAEMON_LOCK_BYTE = 0, FIRST_LANE_LOCK_BYTE = 1, LANE_ANONYMOUS = 2, SLOT_VALID = 1, OK = 0, ERROR = 1, GONE = 3 };
enum { STOPPING = 3, FAILED = 4, EPOCH = 1 /* Start */, LEAVE = 1, ACCEPTED = 1 };
/* Offsets in the control segment, in a slot record and in a lane's page. */
enum { STATE = 4096, PUBLISHED = 4104, CATALOG_CHANGES = 4152, STATE_REASON = 5120, SLOT_TABLE = 8192 };
enum { SEQ = 0, SLOT_FLAGS = 16, IMAGE_HEIGHT = 24, LABEL_HEIGHT = 40, ID_LENGTH = 56 };
enum { NONCE = 0, WORLD_SIZE = 16, BATCH_SIZE = 24, START = 32, FLAGS = 56, PID = 64, GROUP_LENGTH = 72 };
enum { GROUP = 128, TAKEN = 512, RELEASED = 520, LEAVING = 528, ANSWER_NONCE = 2048 };
enum { ANSWER = 2056, ANSWER_SEQ = 2064, ANSWER_EPOCH = 2072, ANSWER_POSITION = 2080, ANSWER_REASON = 3072 };

typedef struct { uint64_t offset, row_bytes, pixel_bytes; } field;
typedef struct { uint64_t seq, epoch, position; } place;

static char ring[65], generation[17];
static uint64_t slots, lanes, id_table, lane_pages, changes, since[MAX_CATALOGS], lengths[MAX_CATALOGS];
static int catalogs, native, lock_fd;
static field image, label;
static unsigned char *control, *data, *lane;
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

static uint64_t load(const unsigned char *at)
{
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_acquire);
}

static void store(unsigned char *at, uint64_t value)
{
    atomic_store_explicit((_Atomic uint64_t *)at, value, memory_order_release);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static const char *name(const char *prefix, const char *suffix)
{
    static char text[160];
    snprintf(text, sizeof text, "%sringfeed.%s%s%s%s", prefix, ring, *suffix ? "." : "", *suffix ? generation : "", suffix);
    return text;
}

/* JSON, as far as a descriptor needs it. */

static const char *after(const char *p) /* return what follows the value at p, or the key */
{
    int depth = 0;
    do {
        p += strspn(p, " \t\r\n,:");
        if (*p == '"') {
            for (p++; *p && *p != '"'; p++) p += *p == '\\' && p[1];
            p += *p != 0;
        } else if (strchr("{}[]", *p)) {
            depth += *p == '{' || *p == '[' ? 1 : -1;
            p += *p != 0;
        } else {
            p += strcspn(p, " \t\r\n,:{}[]");
        }
    } while (*p && depth > 0);
    return p + strspn(p, " \t\r\n,:");
}

static const char *get(const char *object, const char *key) /* return the value of a key */
{
    const char *p = object + 1 + strspn(object + 1, " \t\r\n");
    for (; *object == '{' && *p == '"'; p = after(after(p)))
        if (!strncmp(p + 1, key, strlen(key)) && p[1 + strlen(key)] == '"') return after(p);
    die(ERROR, "the descriptor of ring %s has no %s", ring, key);
    return NULL;
}

static uint64_t number(const char *object, const char *key) { return strtoull(get(object, key), NULL, 10); }

static field read_field(const char *object)
{
    uint64_t item = strncmp(get(object, "dtype"), "\"uint16\"", 8) ? 1 : 2, extents[3] = {1, 1, 1};
    const char *p = get(object, "row_shape") + 1;
    for (int axis = 0; axis < 3 && *p != ']'; axis++, p = after(p)) extents[axis] = strtoull(p, NULL, 10);
    return (field){number(object, "offset"), extents[0] * extents[1] * extents[2] * item, extents[2] * item};
}

static void read_descriptor(void)
{
    static char text[MAX_DESCRIPTOR + 1];
    ssize_t size = 0, more;
    int fd = open(name("/dev/shm/", ""), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) die(GONE, "no daemon serves the ring %s", ring);
    while ((more = read(fd, text + size, MAX_DESCRIPTOR - size)) > 0) size += more;
    close(fd);
    text[size] = 0;
    if (number(text, "layout_version") != 3) die(ERROR, "ring %s has another layout version", ring);
    const char *its = get(text, "generation") + 1, *geometry = get(text, "geometry"), *p = get(text, "catalogs") + 1;
    if (*generation && strncmp(its, generation, 16)) die(GONE, "the daemon of ring %s was restarted", ring);
    memcpy(generation, its, 16);
    slots = number(geometry, "slots"), lanes = number(geometry, "lanes");
    image = read_field(get(geometry, "image")), label = read_field(get(geometry, "label"));
    native = !strncmp(get(get(text, "identity"), "fit"), "\"native\"", 8);
    for (catalogs = 0; *p == '{' && catalogs < MAX_CATALOGS; catalogs++, p = after(p))
        since[catalogs] = number(p, "since_epoch"), lengths[catalogs] = number(p, "epoch_length");
    changes = number(text, "catalog_changes");
    id_table = SLOT_TABLE + PAGES(slots * RECORD);
    lane_pages = id_table + PAGES(slots * ID_BYTES);
}

static int lock(short kind, uint64_t byte) /* F_WRLCK or F_UNLCK; return whether it was done */
{
    struct flock request = {.l_type = kind, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(lock_fd, F_OFD_SETLK, &request) == 0;
}

static int gone(void)
{
    struct flock request = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = DAEMON_LOCK_BYTE, .l_len = 1};
    uint64_t state = load(control + STATE);
    return state == STOPPING || state == FAILED || fcntl(lock_fd, F_OFD_GETLK, &request) || request.l_type == F_UNLCK;
}

static void die_of(int code, const char *what, const unsigned char *reason) /* a length, then a text */
{
    int size = load(reason) < REASON_BYTES ? (int)load(reason) : REASON_BYTES;
    die(code, "%s. %.*s", what, size, (const char *)reason + 8);
}

static void wait_slice(void)
{
    uint64_t end = now() + SECOND / 5;
    struct timespec until = {end / SECOND, end % SECOND};
    sem_clockwait(bell, CLOCK_MONOTONIC, &until);
}

static unsigned char *map(const char *suffix, uint64_t offset, uint64_t size, int protection)
{
    int fd = open(name("/dev/shm/", suffix), (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    uint64_t before = offset % sysconf(_SC_PAGESIZE); /* a machine's page may hold several lanes' pages */
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts)) die(GONE, "cannot open %s", name("", suffix));
    if ((uint64_t)facts.st_size < offset + size) die(ERROR, "%s is too short", name("", suffix));
    unsigned char *found = mmap(NULL, before + size, protection, MAP_SHARED, fd, offset - before);
    if (found == MAP_FAILED) die(ERROR, "cannot map %s", name("", suffix));
    close(fd);
    return found + before;
}

static void open_ring(void)
{
    read_descriptor();
    control = map(".ctl", 0, lane_pages + lanes * PAGE, PROT_READ);
    data = map(".data", 0, label.offset + PAGES(slots * label.row_bytes), PROT_READ);
    lock_fd = open(name("/dev/shm/", ".ctl"), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK); /* for locks alone: not mapped */
    if (lock_fd < 0) die(GONE, "cannot open %s", name("", ".ctl"));
    if (memcmp(control, "ringfeed", 8) || load(control + 8) != 3 || load(control + 16) != strtoull(generation, NULL, 16))
        die(ERROR, "%s is not the control segment of its descriptor", name("", ".ctl"));
    if (gone()) die_of(GONE, "the daemon is gone", control + STATE_REASON);
}

static uint64_t claim_lane(void)
{
    for (uint64_t end = now() + 2 * SECOND; now() < end; usleep(10000))
        for (uint64_t i = 0; i < lanes; i++) {
            const unsigned char *answer_nonce = control + lane_pages + i * PAGE + ANSWER_NONCE;
            if (load(answer_nonce) || !lock(F_WRLCK, FIRST_LANE_LOCK_BYTE + i)) continue;
            if (!load(answer_nonce)) return i; /* looked at again: another consumer may have come and gone in between */
            lock(F_UNLCK, FIRST_LANE_LOCK_BYTE + i);
        }
    die(ERROR, "all %" PRIu64 " lanes of ring %s are taken", lanes, ring);
    return 0;
}

static void open_lane(uint64_t i)
{
    char suffix[32];
    lane = map(".ctl", lane_pages + i * PAGE, PAGE, PROT_READ | PROT_WRITE);
    snprintf(suffix, sizeof suffix, ".lane.%" PRIu64, i);
    space = sem_open(name("/", ".space"), 0);
    bell = sem_open(name("/", suffix), 0);
    if (space == SEM_FAILED || bell == SEM_FAILED) die(GONE, "the semaphores of ring %s are gone", ring);
    for (int n = 0; n < DRAIN && sem_trywait(bell) == 0; n++) continue;
}

static void detach(uint64_t i)
{
    store(lane + LEAVING, LEAVE);
    lock(F_UNLCK, FIRST_LANE_LOCK_BYTE + i);
    sem_post(space);
}

static place attach(uint64_t batch_size)
{
    char group[64];
    uint64_t nonce = 0, end = now() + 60 * SECOND;
    while (!nonce) nonce = getrandom(&nonce, sizeof nonce, 0) == sizeof nonce ? nonce : 0;
    snprintf(group, sizeof group, "reader.c-%016" PRIx64, nonce);
    for (int word = NONCE; word < ANSWER_NONCE; word += 8) store(lane + word, 0);
    store(lane + WORLD_SIZE, 1);
    store(lane + BATCH_SIZE, batch_size);
    store(lane + START, EPOCH);
    store(lane + FLAGS, LANE_ANONYMOUS);
    store(lane + PID, getpid());
    store(lane + GROUP_LENGTH, strlen(group));
    memcpy(lane + GROUP, group, strlen(group));
    store(lane + NONCE, nonce);
    sem_post(space);
    while (load(lane + ANSWER_NONCE) != nonce && now() < end) {
        wait_slice();
        if (gone()) die_of(GONE, "the daemon is gone", control + STATE_REASON);
    }
    if (load(lane + ANSWER_NONCE) != nonce || load(lane + ANSWER) != ACCEPTED)
        die_of(ERROR, "refused", lane + ANSWER_REASON); /* read before the lane is given back, here by exit */
    return (place){load(lane + ANSWER_SEQ), load(lane + ANSWER_EPOCH), load(lane + ANSWER_POSITION)};
}

static uint64_t pairs_left(place at)
{
    int last = catalogs - 1;
    while (last > 0 && since[last] > at.epoch) last--;
    return lengths[last] > at.position ? lengths[last] - at.position : 0;
}

/* Set at to where the round at it really begins; return its pairs, which are all a group of one's. */
static uint64_t block(place *at, uint64_t batch_size)
{
    if (!pairs_left(*at)) *at = (place){at->seq, at->epoch + 1, 0};
    return pairs_left(*at) < batch_size ? pairs_left(*at) : batch_size;
}

static void wait_for(uint64_t end)
{
    if (load(control + PUBLISHED) >= end) {
        sem_trywait(bell);
        return;
    }
    for (;;) {
        wait_slice();
        int stopped = gone(); /* STATE and the lock first, */
        if (load(control + PUBLISHED) >= end) return; /* then PUBLISHED once more */
        if (stopped) die_of(GONE, "the daemon is gone", control + STATE_REASON);
    }
}

static uint64_t checksum(uint64_t sum, field f, uint64_t slot, const unsigned char *height)
{
    uint64_t size = native ? load(height) * load(height + 8) * f.pixel_bytes : f.row_bytes;
    const unsigned char *pixels = data + f.offset + slot * f.row_bytes;
    for (uint64_t i = 0; i < size && i < f.row_bytes; i++) sum = (sum ^ pixels[i]) * 1099511628211ull;
    return sum;
}

static void print_pair(place at)
{
    uint64_t slot = at.seq % slots, sum = 14695981039346656037ull;
    const unsigned char *record = control + SLOT_TABLE + slot * RECORD, *id = control + id_table + slot * ID_BYTES;
    if (load(record + SEQ) != at.seq) die(ERROR, "slot %" PRIu64 " does not hold pair %" PRIu64, slot, at.seq);
    int size = load(record + ID_LENGTH) < ID_BYTES ? (int)load(record + ID_LENGTH) : ID_BYTES;
    sum = checksum(sum, image, slot, record + IMAGE_HEIGHT);
    sum = checksum(sum, label, slot, record + LABEL_HEIGHT);
    printf("%" PRIu64 " %" PRIu64 " %d %016" PRIx64 " %.*s\n", at.epoch, at.position,
           (int)(load(record + SLOT_FLAGS) & SLOT_VALID), sum, size, (const char *)id);
}

int main(int argc, char **argv)
{
    uint64_t batch_size = argc == 4 ? strtoull(argv[2], NULL, 10) : 0;
    if (!batch_size || strlen(argv[1]) >= sizeof ring) die(ERROR, "usage: reader RING BATCH_SIZE EPOCHS");
    strcpy(ring, argv[1]);
    open_ring();
    uint64_t i = claim_lane();
    open_lane(i);
    place at = attach(batch_size);
    if (load(control + CATALOG_CHANGES) > changes) read_descriptor();
    uint64_t count = block(&at, batch_size), end = at.epoch + strtoull(argv[3], NULL, 10);
    store(lane + TAKEN, at.seq);
    store(lane + RELEASED, at.seq);
    while (at.epoch < end) {
        wait_for(at.seq + count);
        if (load(control + CATALOG_CHANGES) > changes) { /* looked at after PUBLISHED: the block may be another one */
            read_descriptor();
            count = block(&at, batch_size);
            continue;
        }
        place next = {at.seq + count, at.epoch, at.position + count};
        uint64_t following = block(&next, batch_size);
        store(lane + TAKEN, next.seq);
        for (; count; count--, at.seq++, at.position++) print_pair(at);
        store(lane + RELEASED, next.seq);
        sem_post(space);
        at = next, count = following;
    }
    detach(i);
    return fflush(stdout) ? ERROR : OK;
}
