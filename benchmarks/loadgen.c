/* A WebSocket load generator for Engine.IO 4 / Socket.IO 5 (and Socket.IO 0.9) servers on loopback: one epoll loop,
 * cheap enough that one core of load saturates one core of server.
 *
 *   loadgen port=3000 pid=4711 mode=sync [key=value ...]
 *
 * mode     sync     clients write in their own channels, `depth` requests in flight each
 *          fanout   the first `writers` clients (1) write; all are in one channel and receive what the others wrote
 *          idle     connect, listen, sit
 *          mixed    clients share `channels` channels; of ten requests two create, two update, six read
 *          connect  every client connects, listens, closes, and starts again
 *          storm    all listen, all drop, one writer makes `missed` writes, all connect again with `since`
 * clients  connections                                        writers  how many of them send requests
 * channels channels the clients are spread over               depth    requests in flight per writer
 * seconds  measured time, after `warm` seconds                rate     requests a second in all, instead of depth
 * window   connections that may be half open at once          slow     further listeners of channel 0 that never read
 * writes   update: a writer creates one record and updates it from then on, so that no store grows; create: creates only
 *
 * Templates; $i is the client's number (a model's "n" holds it, to tell whose event arrives), $c its channel, $n the ack id, $m the id of the record it wrote last,
 * $s the positions it knows (storm):
 * connect, joined, listen, resume, create, update, read       what is sent, or (joined) the prefix awaited
 * ack, event                                                  prefixes of an ack and of a notification
 * path                                                        of the upgrade; legacy=1 asks for a session id first
 * cookie                                                      what the upgrade carries
 *
 * Prints one JSON object. Server time is the CPU clock of process `pid`: all its threads, user and system.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CLOSED, ASKING, UPGRADING, OPENING, JOINING, LISTENING, READY };
enum { RING = 1 << 14, WRITERS = 8, BUFFER = 1 << 20, SAMPLES = 4000000 };
static const unsigned TIMER = -1;

typedef struct {
    int fd, state, id, slow, channel, turn, recovered;
    long next_ack, inflight;
    long received[WRITERS];   /* events of each writer */
    double *sent;      /* when each request in flight left, by ack id */
    char *partial;     /* the bytes of an unfinished frame */
    size_t partial_len;
    char record[72];   /* JSON value of the id of the record written last */
    char *since;       /* JSON object of the positions in the listen reply */
    char *session;     /* the upgrade path that Socket.IO 0.9 handed out */
    double opened;
} Client;

typedef struct { double *values; long count; } Samples;

static struct { const char *key, *value; } settings[] = {
    {"port", "3000"}, {"pid", "0"}, {"mode", "sync"}, {"clients", "50"}, {"writers", "-1"}, {"channels", "0"},
    {"depth", "1"}, {"seconds", "3"}, {"warm", "1.5"}, {"rate", "0"}, {"window", "64"}, {"slow", "0"}, {"missed", "100"}, {"writes", "update"},
    {"connect", "40/messages,"}, {"joined", "40/messages,"}, {"listen", "42/messages,0[\"listen\",\"c$c\"]"},
    {"resume", "42/messages,0[\"listen\",\"c$c\",{\"v\":1,\"since\":$s}]"},
    {"create", "42/messages,$n[\"sync\",{\"method\":\"create\",\"model\":{\"text\":\"hello world\",\"done\":false,\"n\":$i},"
               "\"options\":{}}]"},
    {"update", "42/messages,$n[\"sync\",{\"method\":\"update\",\"model\":{\"id\":$m,\"text\":\"hello world\",\"done\":true,"
               "\"n\":$i},\"options\":{}}]"},
    {"read", "42/messages,$n[\"sync\",{\"method\":\"read\",\"model\":{\"id\":$m},\"options\":{}}]"},
    {"ack", "43/messages,"}, {"event", "42/messages,"}, {"path", "/socket.io/?EIO=4&transport=websocket"}, {"legacy", ""}, {"cookie", ""},
};

static Client *clients;
static int total, listeners, writers, channels, depth, window, legacy, poller, timer, storming, measuring, stopped;
static int fanout, mixed, churn, storm, growing;   /* the mode, as flags */
static int connecting, opened, ready;
static unsigned next_writer;
static double rate;
static const char *mode, *create, *update, *read_, *ack_prefix, *event_prefix, *joined_prefix;
static size_t ack_length, event_length;
static long acks, events, errors, connects, bytes_in;
static double last_ready;
static Samples ack_latency, event_latency;
static char input[BUFFER + 65536], output[BUFFER];

static const char *setting(const char *key) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (!strcmp(settings[i].key, key)) return settings[i].value;
    fprintf(stderr, "loadgen: no setting %s\n", key);
    exit(2);
}

static long number(const char *key) { return atol(setting(key)); }

static int is_mode(const char *name) { return !strcmp(mode, name); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double server_cpu(void) {
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(number("pid"), &clock) || clock_gettime(clock, &t)) return 0;
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double server_rss_kib(void) {
    char path[64];
    long size, resident = 0;
    snprintf(path, sizeof path, "/proc/%ld/statm", number("pid"));
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &size, &resident) != 2) resident = 0;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024.0);
}

static void sample(Samples *s, double seconds) {
    if (measuring && s->count < SAMPLES) s->values[s->count++] = seconds * 1e6;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(Samples *s, double share) { return s->count ? s->values[(long)(s->count * share)] : 0; }

/* --- connections ------------------------------------------------------------------------------------------------ */

static void close_client(Client *c, int failed) {
    if (failed && !stopped && !c->slow) {
        errors++;
        fprintf(stderr, "loadgen: the server closed connection %d\n", c->id);
    }
    if (c->state == READY) ready--;
    else if (c->state != CLOSED) connecting--;
    close(c->fd);
    c->state = CLOSED;
    c->inflight = 0;
    c->partial_len = 0;
}

static void transmit(Client *c, const char *bytes, size_t length) {
    while (length) {
        ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { usleep(20); continue; }
        if (n < 0) return;   /* the loop sees the hang-up */
        bytes += n;
        length -= n;
    }
}

static void open_socket(Client *c, int state) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(number("port"))};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u32 = c->id};
    struct sockaddr_in source = {.sin_family = AF_INET};
    int one = 1, small = 4096;
    static unsigned sockets;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { perror("loadgen: socket"); exit(1); }
    /* Each source address has its own ephemeral ports: closed connections keep theirs for a minute. */
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + sockets++ % 16);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (void *)&source, sizeof source)) { perror("loadgen: bind"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->slow) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) { perror("loadgen: connect"); exit(1); }
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->state = state;
}

static void open_client(Client *c) {
    connecting++;
    c->opened = now();
    open_socket(c, legacy ? ASKING : UPGRADING);
}

static void send_http(Client *c) {
    const char *port = setting("port");
    int n = c->state == ASKING
        ? snprintf(output, sizeof output, "GET /socket.io/1/ HTTP/1.0\r\nHost: localhost:%s\r\n\r\n", port)
        : snprintf(output, sizeof output,
                   "GET %s HTTP/1.1\r\nHost: localhost:%s\r\nOrigin: http://localhost:%s\r\n"
                   "Connection: Upgrade\r\nUpgrade: websocket\r\nCookie: %s\r\n"
                   "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                   legacy ? c->session : setting("path"), port, port, setting("cookie"));
    transmit(c, output, n);
}

/* The mask of a client's frame may be any four bytes; zeros leave the payload as it is. */
static void send_text(Client *c, const char *text, size_t n) {
    static char frame[BUFFER + 16];
    size_t head = 2;
    frame[0] = (char)0x81;
    if (n < 126) frame[1] = (char)(0x80 | n);
    else if (n < 65536) {
        frame[1] = (char)(0x80 | 126);
        frame[2] = n >> 8;
        frame[3] = n;
        head = 4;
    } else {
        frame[1] = (char)(0x80 | 127);
        for (int i = 0; i < 8; i++) frame[2 + i] = n >> (56 - 8 * i);
        head = 10;
    }
    memset(frame + head, 0, 4);
    memcpy(frame + head + 4, text, n);
    transmit(c, frame, head + 4 + n);
}

static int channel_of(int id) {
    if (fanout || storm) return 0;
    if (mixed || id < writers) return mixed ? id % channels : id;
    return writers + (channels ? id % channels : id);
}

static void send_template(Client *c, const char *template) {
    char *out = output, *end = output + sizeof output - 4096;
    for (const char *in = template; *in && out < end; in++) {
        if (*in != '$') { *out++ = *in; continue; }
        switch (*++in) {
            case 'i': out += sprintf(out, "%d", c->id); break;
            case 'c': out += sprintf(out, "%d", c->channel); break;
            case 'n': out += sprintf(out, "%ld", c->next_ack); break;
            case 'm': out += sprintf(out, "%s", c->record); break;
            case 's': out += sprintf(out, "%s", c->since ? c->since : "{}"); break;
        }
    }
    send_text(c, output, out - output);
}

static void request(Client *c) {
    char turn = !*c->record || growing ? 'c' : mixed ? "crrurrurcr"[c->turn++ % 10] : 'u';
    c->sent[c->next_ack % RING] = now();
    send_template(c, turn == 'c' ? create : turn == 'u' ? update : read_);
    c->next_ack++;
    c->inflight++;
}

/* --- packets ---------------------------------------------------------------------------------------------------- */

static void remember_record(Client *c, const char *ack) {
    const char *id = strstr(ack, "\"id\":");
    size_t n = id ? strcspn(id + 5, ",}") : 0;
    if (!n || n >= sizeof c->record) return;
    memcpy(c->record, id + 5, n);
    c->record[n] = 0;
}

/* From {"streams":{"c:x":{"epoch":"e","offset":3,...},...}} to {"c:x":["e",3],...}. */
static void remember_positions(Client *c, const char *reply) {
    const char *in = strstr(reply, "\"streams\":{");
    if (!in) return;
    char *out = c->since = realloc(c->since, strlen(in) + 64);
    *out++ = '{';
    in += 11;
    while (*in == '"') {
        const char *name = in, *colon = strchr(in + 1, '"') + 1, *end = colon, *epoch, *offset;
        for (int nesting = 0; *end; end++) {
            nesting += *end == '{' || *end == '[';
            nesting -= *end == '}' || *end == ']';
            if (nesting == 0 && *end == '}') break;
        }
        epoch = strstr(colon, "\"epoch\":");
        offset = strstr(colon, "\"offset\":");
        if (!epoch || !offset || epoch > end || offset > end) break;
        epoch += 8;
        offset += 9;
        out += sprintf(out, "%s%.*s:[%.*s,%ld]", out[-1] == '{' ? "" : ",", (int)(colon - name), name,
                       (int)strcspn(epoch, ",}"), epoch, atol(offset));
        in = end + 1;
        if (*in == ',') in++;
    }
    strcpy(out, "}");
}

static void listened(Client *c, const char *reply) {
    c->state = READY;
    connecting--;
    ready++;
    connects++;
    last_ready = now();
    if (storming) c->recovered = strstr(reply, "\"recovered\":true") && !strstr(reply, "\"recovered\":false");
    else if (storm) remember_positions(c, reply);
    if (storming || churn) sample(&ack_latency, now() - c->opened);
    if (churn) close_client(c, 0);
    if (c->slow) {   /* from here on, never read again; only a hang-up is noticed */
        struct epoll_event event = {.events = EPOLLRDHUP, .data.u32 = c->id};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    }
}

static void complain(const char *what, const char *text) {
    if (!errors++) fprintf(stderr, "loadgen: %s: %.200s\n", what, text);
}

static void delivered(Client *c, const char *event) {
    const char *n = strstr(event, "\"n\":");
    int writer = n ? atoi(n + 4) : -1;
    if (writer < 0 || writer >= writers) { complain("an event of nobody", event); return; }
    sample(&event_latency, now() - clients[writer].sent[++c->received[writer] % RING]);
}

static void packet(Client *c, char *text, size_t n) {
    bytes_in += n;
    if (!strncmp(text, event_prefix, event_length)) {
        events++;
        if (fanout) delivered(c, text);
    } else if (!strncmp(text, ack_prefix, ack_length)) {
        if (c->state == LISTENING) { listened(c, text); return; }
        long id = atol(text + ack_length);
        acks++;
        c->inflight--;
        sample(&ack_latency, now() - c->sent[id % RING]);
        const char *reply = strchr(text + ack_length, '[');
        if (!reply || strncmp(reply, "[null,{", 7)) complain("not a model", text);
        if (mixed || !*c->record) remember_record(c, text);
        if (!stopped && !rate && !storm) request(c);
    } else if (!legacy && n == 1 && *text == '2') send_text(c, "3", 1);
    else if (legacy && !strncmp(text, "2::", 3)) send_text(c, "2::", 3);
    else if (c->state == OPENING && (*text == '0' || (legacy && !strncmp(text, "1::", 3)))) {
        c->state = JOINING;
        send_template(c, setting("connect"));
    } else if (c->state == JOINING && !strncmp(text, joined_prefix, strlen(joined_prefix))) {
        c->state = LISTENING;
        memset(c->received, 0, sizeof c->received);
        send_template(c, setting(storming ? "resume" : "listen"));
    } else if (!strncmp(text, "44", 2)) {
        errors++;
        fprintf(stderr, "loadgen: %.*s\n", (int)n, text);
    }
}

static size_t frames(Client *c, char *bytes, size_t n) {
    size_t at = 0;
    while (c->state >= OPENING && n - at >= 2) {
        unsigned char *p = (unsigned char *)bytes + at;
        size_t length = p[1] & 127, head = 2;
        if (length == 126) {
            if (n - at < 4) break;
            length = p[2] << 8 | p[3];
            head = 4;
        } else if (length == 127) {
            if (n - at < 10) break;
            length = 0;
            head = 10;
            for (int i = 2; i < 10; i++) length = length << 8 | p[i];
        }
        if (n - at < head + length) break;
        char *text = bytes + at + head, saved = text[length];
        text[length] = 0;
        if ((p[0] & 15) == 1) packet(c, text, length);
        text[length] = saved;
        at += head + length;
    }
    return at;
}

static void receive(Client *c) {
    memcpy(input, c->partial, c->partial_len);
    ssize_t got = recv(c->fd, input + c->partial_len, BUFFER - c->partial_len, 0);
    if (got < 0 && errno == EAGAIN) return;
    size_t n = c->partial_len + (got > 0 ? got : 0), at = 0;
    input[n] = 0;
    if (c->state == ASKING) {   /* "...\r\n\r\nSID:60:60:websocket,..." and the connection's end */
        char *sid = strstr(input, "\r\n\r\n"), path[256];
        if (sid && strchr(sid, ':')) {
            sid = strrchr(strtok(sid + 4, ":"), '\n') ? strrchr(sid + 4, '\n') + 1 : sid + 4;   /* after a chunk size */
            snprintf(path, sizeof path, "/socket.io/1/websocket/%s", sid);
            close(c->fd);
            free(c->session);
            c->session = strdup(path);
            c->partial_len = 0;
            open_socket(c, UPGRADING);
            return;
        }
    }
    if (got <= 0) { close_client(c, 1); return; }
    if (c->state == UPGRADING) {
        char *end = strstr(input, "\r\n\r\n");
        if (end && strncmp(input, "HTTP/1.1 101", 12)) {
            fprintf(stderr, "loadgen: no upgrade: %.60s\n", input);
            exit(1);
        }
        if (end) {
            c->state = OPENING;
            at = end + 4 - input;
        }
    }
    at += frames(c, input + at, n - at);
    if (c->state == CLOSED) return;
    c->partial_len = n - at;
    if (c->partial_len) {
        c->partial = realloc(c->partial, c->partial_len);
        memcpy(c->partial, input + at, c->partial_len);
    }
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void serve(Client *c, unsigned happened) {
    if (c->state == CLOSED) return;
    if (happened & EPOLLOUT) {   /* connected */
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = c->id};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        send_http(c);
    }
    if (c->slow && c->state == READY) close_client(c, 1);
    else if (happened & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
}

static void replace_clients(void) {
    double long_ago = now() - 2;
    if (measuring)
        for (Client *c = clients + total; c < clients + listeners; c++) {
            if (c->state == READY && c->opened < long_ago) close_client(c, 0);
            if (c->state == CLOSED) open_client(c);
        }
    if (churn && !stopped)
        for (Client *c = clients; c < clients + total && connecting < window; c++)
            if (c->state == CLOSED) open_client(c);
}

static void tick(void) {
    unsigned long due;
    if (read(timer, &due, sizeof due) != sizeof due) return;
    for (; due && !stopped; due--) {
        Client *c = &clients[next_writer++ % writers];
        if (c->state == READY) request(c);
    }
}

static void loop(double until, int (*done)(void)) {
    struct epoll_event happened[512];
    while (now() < until && !(done && done())) {
        int n = epoll_wait(poller, happened, 512, 20);
        for (int i = 0; i < n; i++) {
            if (happened[i].data.u32 == TIMER) tick();
            else serve(&clients[happened[i].data.u32], happened[i].events);
        }
        replace_clients();
    }
}

static int all_ready(void) {
    while (opened < listeners && connecting < window) open_client(&clients[opened++]);
    return ready == listeners;
}

static int all_delivered(void) { return events == acks * (listeners - 1); }

static int all_acked(void) { return clients[0].inflight == 0; }

static void start_timer(void) {
    struct timespec period = {.tv_sec = 1 / rate, .tv_nsec = rate > 1 ? 1e9 / rate : 0};
    struct itimerspec spec = {period, period};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = TIMER};
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    timerfd_settime(timer, 0, &spec, 0);
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
}

static void start_requests(void) {
    if (rate) start_timer();
    else for (int i = 0; i < writers; i++)
        for (int d = 0; d < depth; d++) request(&clients[i]);
}

static void drop_all_and_write(void) {
    for (int i = 1; i < total; i++) close_client(&clients[i], 0);
    loop(now() + 1, 0);
    for (long i = 0; i < number("missed"); i++) {
        request(&clients[0]);
        loop(now() + 10, all_acked);
    }
    loop(now() + 0.2, 0);
}

static int all_recovered(void) {
    int recovered = 0;
    opened = 1;
    window = total;
    storming = 1;
    loop(now() + 60, all_ready);
    for (int i = 1; i < total; i++) recovered += clients[i].recovered;
    return recovered;
}

static void read_settings(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        size_t n = equals ? equals - argv[i] : 0, known = 0;
        for (size_t k = 0; n && k < sizeof settings / sizeof *settings; k++)
            if (n == strlen(settings[k].key) && !strncmp(argv[i], settings[k].key, n)) {
                settings[k].value = equals + 1;
                known = 1;
            }
        if (!known) { fprintf(stderr, "loadgen: no setting %s\n", argv[i]); exit(2); }
    }
    mode = setting("mode");
    fanout = is_mode("fanout");
    mixed = is_mode("mixed");
    churn = is_mode("connect");
    storm = is_mode("storm");
    growing = !strcmp(setting("writes"), "create");
    create = setting("create");
    update = setting("update");
    read_ = setting("read");
    ack_prefix = setting("ack");
    ack_length = strlen(ack_prefix);
    event_prefix = setting("event");
    event_length = strlen(event_prefix);
    joined_prefix = setting("joined");
    legacy = *setting("legacy") != 0;
    rate = atof(setting("rate"));
    total = number("clients");
    listeners = total + number("slow");
    depth = number("depth");
    window = number("window");
    channels = number("channels");
    if (mixed && !channels) channels = 10;
    writers = number("writers") >= 0 ? number("writers") : is_mode("sync") || mixed ? total : fanout;
    if (fanout && writers > WRITERS) { fprintf(stderr, "loadgen: at most %d writers\n", WRITERS); exit(2); }
}

static void make_clients(void) {
    poller = epoll_create1(0);
    clients = calloc(listeners, sizeof *clients);
    ack_latency.values = malloc(SAMPLES * sizeof(double));
    event_latency.values = malloc(SAMPLES * sizeof(double));
    for (int i = 0; i < listeners; i++) {
        clients[i] = (Client){.id = i, .next_ack = 1, .slow = i >= total, .channel = i < total ? channel_of(i) : 0};
        if (i < writers || i == 0) clients[i].sent = calloc(RING, sizeof(double));
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    read_settings(argc, argv);
    make_clients();

    double rss = server_rss_kib(), start = now(), cpu = server_cpu();
    if (!churn) loop(now() + 120, all_ready);
    double connect_seconds = now() - start, connect_cpu = server_cpu() - cpu;
    int joined = ready;
    if (joined < listeners && !churn) fprintf(stderr, "loadgen: only %d of %d listen\n", joined, listeners);
    if (is_mode("idle")) loop(now() + 1, 0);
    double rss_joined = server_rss_kib();

    if (storm) drop_all_and_write();
    else start_requests();
    if (writers || churn) loop(now() + atof(setting("warm")), 0);

    long acks_before = acks, events_before = events, connects_before = connects;
    int recovered = 0;
    start = now();
    cpu = server_cpu();
    measuring = 1;
    if (storm) recovered = all_recovered();
    else loop(start + atof(setting("seconds")), 0);
    double seconds = now() - start, used = server_cpu() - cpu, rss_end = server_rss_kib();
    long acked = acks - acks_before, delivered = events - events_before, connected = connects - connects_before;
    measuring = 0;
    stopped = 1;
    if (fanout && listeners == total) {
        loop(now() + 10, all_delivered);
        if (!all_delivered()) fprintf(stderr, "loadgen: %ld writes, %ld events\n", acks, events), errors++;
    } else loop(now() + 0.2, 0);

    qsort(ack_latency.values, ack_latency.count, sizeof(double), ascending);
    qsort(event_latency.values, event_latency.count, sizeof(double), ascending);
    printf("{\"mode\":\"%s\",\"clients\":%d,\"joined\":%d,\"errors\":%ld,\"connect_seconds\":%.3f,\"connect_cpu_us\":%.1f,"
           "\"kib_per_connection\":%.2f,\"rss_mib\":%.1f,\"seconds\":%.3f,\"cpu_seconds\":%.4f,\"acks\":%ld,\"events\":%ld,"
           "\"connects\":%ld,\"recovered\":%d,\"mib_in\":%.1f,"
           "\"ack_p50_us\":%.0f,\"ack_p99_us\":%.0f,\"event_p50_us\":%.0f,\"event_p99_us\":%.0f}\n",
           mode, listeners, joined, errors, connect_seconds, connect_cpu / listeners * 1e6, (rss_joined - rss) / listeners,
           rss_end / 1024, seconds, used, acked, delivered, connected, recovered, bytes_in / 1048576.0,
           percentile(&ack_latency, 0.5), percentile(&ack_latency, 0.99), percentile(&event_latency, 0.5),
           percentile(&event_latency, 0.99));
    return 0;
}
