// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"j5t.io/hsm/pkg/discovery/sysfs/sysfstest"
	"j5t.io/hsm/test/framework/softhsm"
)

// pin is that of all tokens: they are of one HSMDevice.
const pin = "648219"

// stick is a token that can be plugged into a node.
type stick struct {
	softhsm.Token
	// usbSerial is what its USB descriptor says: that of the token, if it is honest.
	usbSerial string
	// product is the id of its USB descriptor.
	product string
	// drawer is where it lies while it is not plugged in, files where SoftHSM's files of
	// it are now.
	drawer, files string
	// at and place are where it is plugged in, and number is what the kernel calls it there.
	at     *node
	place  string
	number int
}

// plugged counts devices, as the kernel does: one that is plugged in again is another.
var plugged int

// newStick makes a token that nobody has used.
func newStick(t *testing.T, w *world) *stick {
	t.Helper()
	dir, err := os.MkdirTemp(w.root, "stick-")
	must(t, err)
	token, err := softhsm.Create(dir, "token", pin)
	must(t, err)
	found, err := filepath.Glob(filepath.Join(token.Dir, "*"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("the token has the files %q", found)
	}
	return &stick{Token: token, usbSerial: token.Serial, product: "5057", drawer: token.Dir, files: found[0]}
}

// clone is a copy of what is on the token now, under the same serial number.
func (s *stick) clone(t *testing.T) *stick {
	t.Helper()
	drawer, err := os.MkdirTemp(s.drawer, "copy-")
	must(t, err)
	copied := &stick{Token: s.Token, usbSerial: s.usbSerial, product: s.product, drawer: drawer, files: filepath.Join(drawer, filepath.Base(s.files))}
	must(t, os.CopyFS(copied.files, os.DirFS(s.files)))
	return copied
}

// plug puts the token into a port of a node: its module finds it, and so does the kernel.
func (s *stick) plug(t *testing.T, n *node, place string) {
	t.Helper()
	s.move(t, filepath.Join(n.tokens, filepath.Base(s.files)))
	plugged++
	must(t, n.usb.Plug(sysfstest.USB{
		Name: place, VendorID: "f055", ProductID: s.product, Product: "Token", Serial: s.usbSerial,
		BusNumber: "1", DeviceNumber: strconv.Itoa(plugged), DeviceFileName: fmt.Sprintf("bus/usb/001/%03d", plugged),
	}))
	s.at, s.place, s.number = n, place, plugged
}

// pull takes it out.
func (s *stick) pull(t *testing.T) {
	t.Helper()
	must(t, s.at.usb.Unplug(s.place))
	s.move(t, filepath.Join(s.drawer, filepath.Base(s.files)))
	s.at, s.place = nil, ""
}

func (s *stick) move(t *testing.T, to string) {
	t.Helper()
	must(t, os.Rename(s.files, to))
	s.files = to
}
