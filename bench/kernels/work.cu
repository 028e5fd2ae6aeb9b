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

// The same with 48 numbers in flight: 1,024 threads take all registers of an SM.
extern "C" __global__ void __launch_bounds__(1024, 1)
full_registers(u32* data, u32 count, u32 number, u64 duration_ns) {
    const u64 start_ns = now_ns();
    const u32 idx = blockIdx.x * blockDim.x + threadIdx.x;
    const u32 value = idx < count ? data[idx] : 0;
    u32 kept[48];
#pragma unroll
    for (int i = 0; i < 48; i++) kept[i] = value + i;
    while (now_ns() - start_ns < duration_ns) {
#pragma unroll
        for (int i = 0; i < 48; i++) kept[i] = kept[i] * 3 + kept[(i + 7) % 48];
    }
    u32 sum = 0;
#pragma unroll
    for (int i = 0; i < 48; i++) sum += kept[i];
    // No number is that one, which no compiler knows.
    if (idx < count) data[idx] = value * 3 + number + (number == 0xffffffffu ? sum : 0);
}

extern "C" __global__ void stamp(u64* stamps) { stamps[0] = now_ns(); }
