/* A libnvidia-ml.so.1 that answers what a text file says: the tests go through pynvml itself.
 *
 * The file is named by FAKE_NVML_STATE and read at every call. It has lines "key=value":
 *
 *     init=0                 what nvmlInit returns (9: the driver is not loaded)
 *     error=0                what every call on a device returns (15: the GPU is lost)
 *     hang=1                 every call blocks until this line is gone
 *     driver=570.86
 *     count=1
 *     gpu0.uuid=GPU-…        name, memory_total, memory_used (bytes), utilization (percent), power, power_limit (mW),
 *                            temperature, pids (separated by commas), minor (N of /dev/nvidiaN), mig (1: enabled),
 *                            migs (number of devices)
 *     gpu0.mig0.uuid=MIG-…   the same fields
 *
 * A field that is missing is not supported by the device.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define VERSION_MISMATCH 25

#define MAX_GPUS 8
#define MAX_MIGS 8

typedef const char *device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;
typedef struct { unsigned int version; unsigned int sensor; int temperature; } temperature_t;

static char names[MAX_GPUS][MAX_MIGS + 1][16]; /* what a handle points to: "gpu0" or "gpu0.mig1" */

static int find(const char *key, char *value, size_t size)
{
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    int found = 0;
    if (!file)
        return 0;
    while (!found && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static int number(const char *key)
{
    char value[64];
    return find(key, value, sizeof value) ? atoi(value) : 0;
}

static void maybe_hang(void)
{
    while (number("hang"))
        usleep(5000);
}

static int field(device_t device, const char *name, char *value, size_t size)
{
    char key[64];
    int error;
    maybe_hang();
    error = number("error");
    if (error)
        return error;
    snprintf(key, sizeof key, "%s.%s", device, name);
    return find(key, value, size) ? OK : NOT_SUPPORTED;
}

static int measure(device_t device, const char *name, unsigned long long *out)
{
    char value[64];
    int result = field(device, name, value, sizeof value);
    if (result == OK)
        *out = strtoull(value, NULL, 10);
    return result;
}

static int measure_int(device_t device, const char *name, unsigned int *out)
{
    unsigned long long value = 0;
    int result = measure(device, name, &value);
    *out = (unsigned int)value;
    return result;
}

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    maybe_hang();
    return number("init");
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code)
{
    static char text[32];
    snprintf(text, sizeof text, "fake error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    return find("driver", version, length) ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    maybe_hang();
    *count = (unsigned int)number("count");
    return number("error");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t *device)
{
    if (index >= MAX_GPUS)
        return INVALID_ARGUMENT;
    snprintf(names[index][MAX_MIGS], sizeof names[0][0], "gpu%u", index);
    *device = names[index][MAX_MIGS];
    return OK;
}

int nvmlDeviceGetUUID(device_t device, char *uuid, unsigned int length) { return field(device, "uuid", uuid, length); }
int nvmlDeviceGetName(device_t device, char *name, unsigned int length) { return field(device, "name", name, length); }

int nvmlDeviceGetMinorNumber(device_t device, unsigned int *minor) { return measure_int(device, "minor", minor); }

int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory)
{
    int result = measure(device, "memory_total", &memory->total);
    if (result == OK)
        result = measure(device, "memory_used", &memory->used);
    memory->free = memory->total - memory->used;
    return result;
}

int nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory)
{
    memory_t plain = {0, 0, 0};
    int result;
    if (memory->version != (sizeof(memory_v2_t) | 2u << 24))
        return VERSION_MISMATCH;
    result = nvmlDeviceGetMemoryInfo(device, &plain);
    memory->total = plain.total;
    memory->reserved = 0;
    memory->free = plain.free;
    memory->used = plain.used;
    return result;
}

int nvmlDeviceGetUtilizationRates(device_t device, utilization_t *rates)
{
    rates->memory = 0;
    return measure_int(device, "utilization", &rates->gpu);
}

int nvmlDeviceGetPowerUsage(device_t device, unsigned int *power) { return measure_int(device, "power", power); }

int nvmlDeviceGetEnforcedPowerLimit(device_t device, unsigned int *limit)
{
    return measure_int(device, "power_limit", limit);
}

int nvmlDeviceGetTemperature(device_t device, int sensor, unsigned int *temperature)
{
    (void)sensor;
    return measure_int(device, "temperature", temperature);
}

int nvmlDeviceGetTemperatureV(device_t device, temperature_t *temperature)
{
    unsigned int value = 0;
    int result;
    if (temperature->version != (sizeof(temperature_t) | 1u << 24))
        return VERSION_MISMATCH;
    result = measure_int(device, "temperature", &value);
    temperature->temperature = (int)value;
    return result;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned int *count, process_t *processes)
{
    char pids[512], *pid, *rest = pids;
    unsigned int room = *count, seen = 0;
    int result = field(device, "pids", pids, sizeof pids);
    if (result != OK)
        return result;
    while ((pid = strsep(&rest, ","))) {
        if (!*pid)
            continue;
        if (processes && seen < room)
            processes[seen] = (process_t){(unsigned int)atoi(pid), 1 << 20, 0, 0};
        seen++;
    }
    *count = seen;
    return seen > room || (seen && !processes) ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetMigMode(device_t device, unsigned int *current, unsigned int *pending)
{
    int result = measure_int(device, "mig", current);
    *pending = *current;
    return result;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t device, unsigned int *count)
{
    (void)device;
    *count = MAX_MIGS;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t device, unsigned int index, device_t *mig)
{
    unsigned int gpu = (unsigned int)atoi(device + 3);
    char key[32];
    snprintf(key, sizeof key, "%s.migs", device);
    if (index >= MAX_MIGS || index >= (unsigned int)number(key))
        return NOT_FOUND;
    snprintf(names[gpu][index], sizeof names[0][0], "gpu%u.mig%u", gpu, index);
    *mig = names[gpu][index];
    return OK;
}
