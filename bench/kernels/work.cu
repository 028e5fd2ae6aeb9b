// Kernels that stand for a network's in tests: work whose result tells the order, and waiting.

typedef unsigned int u32;
typedef unsigned long long u64;

static __device__ __forceinline__ u64 now_ns() {
    u64 time_ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time_ns));
    return time_ns;
}

// data[i] = data[i] * 3 + step: steps in another order, or left out, give other numbers.
extern "C" __global__ void step(u32* data, u32 count, u32 number) {
    const u32 idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (idx < count) data[idx] = data[idx] * 3 + number;
}

// The same, and every block stays for at least that time.
extern "C" __global__ void long_step(u32* data, u32 count, u32 number, u64 duration_ns) {
    const u64 start_ns = now_ns();
    const u32 idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (idx < count) data[idx] = data[idx] * 3 + number;
    while (now_ns() - start_ns < duration_ns) {
    }
}

extern "C" __global__ void stamp(u64* stamps) { stamps[0] = now_ns(); }
