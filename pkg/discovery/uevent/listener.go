// SPDX-License-Identifier: Apache-2.0

package uevent

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group of the kernel's own messages; udevd sends what it
// made of them to group 2.
const kernelGroup = 1

// maxMessage is well above what the kernel sends: 2 KiB of environment
// (UEVENT_BUFFER_SIZE) after the path of the device.
const maxMessage = 16 << 10

// ErrOverflow says that events were lost: more came than the socket holds. The caller
// must find out what has changed.
var ErrOverflow = errors.New("uevent: the kernel dropped events, as the socket was full")

// Listener receives the kernel's uevents. No capability is needed, but a process in a
// user namespace of its own receives nothing (since Linux 4.18).
type Listener struct {
	file *os.File
	conn syscall.RawConn
	buf  []byte
}

// Listen opens the socket. Events are queued from now on.
func Listen() (*Listener, error) {
	return listen(unix.NETLINK_KOBJECT_UEVENT, kernelGroup)
}

func listen(protocol int, groups uint32) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("uevent: open a netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("uevent: join the kernel's group: %w", err)
	}
	file := os.NewFile(uintptr(fd), "uevent")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("uevent: wait for the netlink socket: %w", err)
	}
	return &Listener{file: file, conn: conn, buf: make([]byte, maxMessage)}, nil
}

// Close ends a Receive that waits, with os.ErrClosed.
func (l *Listener) Close() error { return l.file.Close() }

// Receive waits for the next event of the kernel, and skips what others send.
// After ErrOverflow the listener goes on; any other error is its end. It must not be
// called by two goroutines at once.
func (l *Listener) Receive() (Event, error) {
	for {
		n, flags, from, err := l.receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return Event{}, ErrOverflow
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return Event{}, fmt.Errorf("uevent: receive: %w", err)
		}
		if event, ok := accept(l.buf[:n], flags, from); ok {
			return event, nil
		}
	}
}

// receive waits until the socket has a datagram or an error.
func (l *Listener) receive() (n, flags int, from unix.Sockaddr, err error) {
	waitErr := l.conn.Read(func(fd uintptr) bool {
		n, _, flags, from, err = unix.Recvmsg(int(fd), l.buf, nil, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		// Without a deadline the wait fails only when the socket is closed.
		err = os.ErrClosed
	}
	return n, flags, from, err
}

// accept takes a datagram if it is a whole event of the kernel. Any process with
// CAP_NET_ADMIN may send to the group, but only the kernel sends as port 0.
func accept(message []byte, flags int, from unix.Sockaddr) (Event, bool) {
	sender, ok := from.(*unix.SockaddrNetlink)
	if !ok || sender.Pid != 0 || flags&unix.MSG_TRUNC != 0 {
		return Event{}, false
	}
	event, err := Parse(message)
	return event, err == nil
}
