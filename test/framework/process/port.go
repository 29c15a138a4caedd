// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports below the range from which Linux takes the local port of an outgoing connection
// (ip_local_port_range): such a connection cannot take a port between FreePort and its use.
const (
	firstPort = 15000
	lastPort  = 32767
	portTries = 1000
)

var (
	givenMutex sync.Mutex
	given      = map[int]bool{}
)

// FreePort returns a TCP port of the loopback interface that nobody listens on, and never the same
// port twice. It is for binaries that take a port by flag; a listener of this process asks for port 0.
func FreePort() (int, error) {
	givenMutex.Lock()
	defer givenMutex.Unlock()
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if given[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		given[port] = true
		return port, listener.Close()
	}
	return 0, errors.New("find a free port on 127.0.0.1: none found; end some of what listens there")
}
