package handover

import (
	"net"
	"os"
	"syscall"
)

func supported() error { return nil }

// rightsSpace returns the bytes that n files take beside the data.
func rightsSpace(n int) int { return syscall.CmsgSpace(4 * n) }

// makeRights returns the control message that carries files. They must stay open
// until it has been sent.
func makeRights(files []*os.File) ([]byte, error) {
	fds := make([]int, len(files))
	for i, f := range files {
		// Not f.Fd(): it would make the socket blocking, for every process that
		// has it.
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return nil, err
		}
	}
	return syscall.UnixRights(fds...), nil
}

// parseRights returns the files that came with control messages, also those
// before an error.
func parseRights(b []byte) (files []*os.File, err error) {
	messages, err := syscall.ParseSocketControlMessage(b)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handover"))
		}
	}
	return files, nil
}

func truncated(flags int) bool { return flags&syscall.MSG_CTRUNC != 0 }

// peerUID returns the user that the process at the other end of c ran as when it
// connected or listened.
func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failure error
	if err := raw.Control(func(fd uintptr) {
		cred, failure = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failure != nil {
		return 0, os.NewSyscallError("getsockopt", failure)
	}
	return int(cred.Uid), nil
}
