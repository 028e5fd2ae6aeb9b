// Gates: preemption points between the kernels of one CUDA graph. docs/gates.md has the protocol.
//
// Each job in flight owns one slot. A slot holds the job's key, smaller = more urgent, or EMPTY. A
// gate is one warp, one slot per lane; it waits while any slot holds a smaller key than its own.
// In `exclusive` mode it also waits for `owner`, so that at most one job is past its gate.
// No thread of a gate takes another path than its warp, except lane 0 for atomics and records.
//
// What a gate does where nobody has to be waited for stands first and in one piece: its code comes
// from far away, for the kernels of a network have taken its place in the SM's cache.

typedef unsigned int u32;
typedef unsigned long long u64;

#define NUM_SLOTS 32
#define NUM_RECORDS 16
#define EMPTY 0xffffffffffffffffull
#define WARP 0xffffffffu
#define ANNOUNCED 32u  // bit of a key: its job is not released yet
#define SLOT_BITS 31u  // the low bits of a key name its slot
#define OWNER_TAG (1ull << 63 | 1ull << 62)  // marks a waited-for owner; no key has both bits
#define MIN_PAUSE_NS 32u
#define MAX_PAUSE_NS 500u

enum Kind { HOLDER_LOST = 1, ANNOUNCEMENT_EXPIRED = 2, OWNER_LOST = 3, WAITED_TOO_LONG = 4 };

struct Record {
    u64 time_ns;
    u64 key;  // what was waited for: a key, or OWNER_TAG and the owner's slot
    u32 kind;
    u32 slot;  // whose gate gave up
};

struct Board {
    u64 slots[NUM_SLOTS];      // byte 0: one line of 256 bytes
    u32 owner;                 // 256: slot + 1 of the job that is past its gate, 0: nobody
    u32 is_open;               // 260: gates wait for nobody
    u32 announce_ticks;        // 264: how long an announcement holds others back
    u32 max_wait_ticks;        // 268: after which a gate lets its job pass, 0: never
    u32 limit_ticks[NUM_SLOTS];  // 272: how long a key or an owner may stay the same, 0: for ever
    u32 num_records;           // 400: how many were ever written
    u32 reserved;              // 404
    Record records[NUM_RECORDS];  // 408: the last ones, in a ring
};

static __device__ __forceinline__ u64 load(const u64* address) { return *(const volatile u64*)address; }
static __device__ __forceinline__ u32 load(const u32* address) { return *(const volatile u32*)address; }

static __device__ __forceinline__ u64 now_ns() {
    u64 time_ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time_ns));
    return time_ns;
}

// A node before may still run when this one starts, where an edge says so: nothing of the board is
// read or written before all that it did is done. Elsewhere this does nothing.
static __device__ __forceinline__ void await_nodes_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A tick is 1,024 ns; their difference is right for an hour.
static __device__ __forceinline__ u32 ticks() { return (u32)(now_ns() >> 10); }

static __device__ void record(Board* board, u32 kind, u64 key, u32 slot) {
    Record* entry = &board->records[atomicAdd(&board->num_records, 1u) % NUM_RECORDS];
    entry->time_ns = now_ns();
    entry->key = key;
    entry->kind = kind;
    entry->slot = slot;
}

// Lane 0: take the key or the ownership from a job that has kept it for too long.
static __device__ void take_away(Board* board, u64 cause, u32 slot) {
    if (cause >= OWNER_TAG) {
        const u32 owner = ((u32)cause & SLOT_BITS) + 1;
        if (atomicCAS(&board->owner, owner, slot + 1) == owner)
            record(board, OWNER_LOST, cause, slot);
    } else if (atomicCAS(&board->slots[cause & SLOT_BITS], cause, EMPTY) == cause) {
        record(board, cause & ANNOUNCED ? ANNOUNCEMENT_EXPIRED : HOLDER_LOST, cause, slot);
    }
}

template <bool IS_EXCLUSIVE>
static __device__ __forceinline__ void wait_for_turn(Board* board, u32 slot, u64* stamps) {
    const u32 lane = threadIdx.x;
    u64 seen = 0;
    u32 since = 0, start = 0;
    u32 pause_ns = MIN_PAUSE_NS;
    for (;;) {
        const u64 held = load(&board->slots[lane]);
        const u32 owner = IS_EXCLUSIVE ? load(&board->owner) : 0;
        const u64 own = __shfl_sync(WARP, held, slot);
        u64 cause;
        if (__ballot_sync(WARP, held < own) == 0) {
            if (!IS_EXCLUSIVE) break;
            if (owner == slot + 1) break;
            u32 before = 0;
            if (lane == 0) before = atomicCAS(&board->owner, 0, slot + 1);
            before = __shfl_sync(WARP, before, 0);
            if (before == 0) continue;  // look again: a more urgent job may have come meanwhile
            cause = OWNER_TAG | (before - 1);
        } else {
            if (IS_EXCLUSIVE && owner == slot + 1 && lane == 0) atomicCAS(&board->owner, slot + 1, 0);
            cause = held;
            for (u32 offset = 16; offset > 0; offset /= 2) {
                const u64 other = __shfl_xor_sync(WARP, cause, offset);
                if (other < cause) cause = other;
            }
        }
        if (load(&board->is_open)) break;
        const u32 time = __shfl_sync(WARP, ticks(), 0);
        if (start == 0) start = time;
        if (cause != seen) {
            seen = cause;
            since = time;
            pause_ns = MIN_PAUSE_NS;
        }
        const u32 holder = (u32)cause & SLOT_BITS;
        const bool is_announced = cause < OWNER_TAG && (cause & ANNOUNCED);
        const u32 limit = load(is_announced ? &board->announce_ticks : &board->limit_ticks[holder]);
        if (limit && time - since > limit) {
            if (lane == 0) take_away(board, cause, slot);
            __syncwarp();
            seen = 0;
            continue;
        }
        const u32 max_wait = load(&board->max_wait_ticks);
        if (max_wait && time - start > max_wait) {
            if (lane == 0) record(board, WAITED_TOO_LONG, cause, slot);
            break;
        }
        __nanosleep(pause_ns);
        pause_ns = min(pause_ns * 2, MAX_PAUSE_NS);
    }
    if (stamps && lane == 0) stamps[1] = now_ns();
}

// `IS_FIRST`: its job cannot be past a gate yet. It takes what is free before it looks. The look
// waits for the answer, else the two would go out together and the look might be served first.
template <bool IS_EXCLUSIVE, bool IS_FIRST>
static __device__ __forceinline__ void gate(Board* board, u32 slot, u64* stamps) {
    const u32 lane = threadIdx.x;
    await_nodes_before();
    u32 owner = slot + 1;
    if (IS_EXCLUSIVE && IS_FIRST) {
        u32 before = 0;
        if (lane == 0) before = atomicCAS(&board->owner, 0, slot + 1);
        before = __shfl_sync(WARP, before, 0);
        if (before != 0) owner = before;
    }
    u64 held = 0;
    if (owner == slot + 1) held = load(&board->slots[lane]);
    if (IS_EXCLUSIVE && !IS_FIRST) owner = load(&board->owner);
    if (stamps && lane == 0) {  // equal where nobody has to be waited for
        const u64 arrived_ns = now_ns();
        stamps[0] = arrived_ns;
        stamps[1] = arrived_ns;
    }
    const u64 own = __shfl_sync(WARP, held, slot);  // cancelled: EMPTY, behind every key
    if (__ballot_sync(WARP, held < own || owner != slot + 1) == 0) return;
    wait_for_turn<IS_EXCLUSIVE>(board, slot, stamps);
}

extern "C" __global__ void preempt_gate_overlap(Board* board, u32 slot, u64* stamps) {
    gate<false, false>(board, slot, stamps);
}

extern "C" __global__ void preempt_gate_exclusive(Board* board, u32 slot, u64* stamps) {
    gate<true, false>(board, slot, stamps);
}

extern "C" __global__ void preempt_gate_exclusive_first(Board* board, u32 slot, u64* stamps) {
    gate<true, true>(board, slot, stamps);
}

// The last node of a gated graph, one thread: the next in line may pass.
extern "C" __global__ void preempt_clear(Board* board, u32 slot, u64* stamps) {
    await_nodes_before();
    if (stamps) stamps[0] = now_ns();
    *(volatile u64*)&board->slots[slot] = EMPTY;
    atomicCAS(&board->owner, slot + 1, 0);
}

// One thread. Where no stream memory operation is, and to compare with one: it has to find an SM.
extern "C" __global__ void preempt_raise(Board* board, u32 slot, u64 key, u64* stamps) {
    *(volatile u64*)&board->slots[slot] = key;
    if (stamps) stamps[0] = now_ns();
}
