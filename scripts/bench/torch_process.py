"""Memory of this process, as Linux counts it, and the device that PyTorch's side computes on."""


def status_bytes(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}")


def synchronizer(device):
    """A function that waits for what was queued on the device."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch
    if not torch.cuda.is_available():
        raise SystemExit(f"--device {device}: this PyTorch ({torch.__version__}) has no CUDA or finds no GPU")
    return torch.cuda.synchronize


def resident_bytes():
    return status_bytes("VmRSS")


def peak_resident_bytes():
    return status_bytes("VmHWM")


def reset_peak():
    """The peak counts from here on (what compiling took before is nobody's training memory)."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
