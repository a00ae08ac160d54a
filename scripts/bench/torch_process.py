"""Memory of this process, as Linux counts it."""


def status_bytes(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}")


def resident_bytes():
    return status_bytes("VmRSS")


def peak_resident_bytes():
    return status_bytes("VmHWM")


def reset_peak():
    """The peak counts from here on (what compiling took before is nobody's training memory)."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
