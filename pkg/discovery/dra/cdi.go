// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	cdi "tags.cncf.io/container-device-interface/specs-go"

	"j5t.io/hsm/pkg/discovery/dra/attribute"
)

const (
	cdiVersion = "0.5.0" // the first with hostPath
	cdiKind    = attribute.Driver + "/token"
	// A file is called as the CDI specification has it: VENDOR-CLASS_ID.json.
	cdiPrefix = attribute.Driver + "-token_"
	cdiSuffix = ".json"
)

// claimUID keeps file names, and names of CDI devices, what they are meant to be.
var claimUID = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// cdiFiles are the CDI specifications of the claims that are prepared, one file each,
// as the container runtime reads them. They are all that the driver remembers of claims.
type cdiFiles struct{ dir string }

// cdiID names a device of a claim for the runtime. No name is used twice for different
// things: runtimes may cache.
func cdiID(claim types.UID, device string) string {
	return cdiKind + "=" + cdiName(claim, device)
}

func cdiName(claim types.UID, device string) string { return string(claim) + "-" + device }

func (c cdiFiles) file(claim types.UID) (string, error) {
	if !claimUID.MatchString(string(claim)) {
		return "", fmt.Errorf("%+q is not the uid of a claim", claim)
	}
	return filepath.Join(c.dir, cdiPrefix+string(claim)+cdiSuffix), nil
}

// write replaces the file of a claim. Paths are those of device files, by device.
func (c cdiFiles) write(claim types.UID, paths map[string]string) error {
	file, err := c.file(claim)
	if err != nil {
		return err
	}
	spec := cdi.Spec{Version: cdiVersion, Kind: cdiKind}
	for _, device := range slices.Sorted(maps.Keys(paths)) {
		spec.Devices = append(spec.Devices, cdi.Device{
			Name: cdiName(claim, device),
			ContainerEdits: cdi.ContainerEdits{DeviceNodes: []*cdi.DeviceNode{{
				// libusb looks for the node where the kernel has it. The runtime fills in the rest
				// from the node.
				Path: paths[device], HostPath: paths[device], Permissions: "rw",
			}}},
		})
	}
	content, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode a CDI file: %w", err)
	}
	// The runtime reads files by their suffix, and must never read half of one. The folder
	// is emptied by a reboot: there is nothing to make durable.
	partial := strings.TrimSuffix(file, cdiSuffix) + ".partial"
	if err := os.WriteFile(partial, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("write a CDI file: %w", err)
	}
	if err := os.Rename(partial, file); err != nil {
		return fmt.Errorf("write a CDI file: %w", err)
	}
	return nil
}

// remove removes the file of a claim, if there is one.
func (c cdiFiles) remove(claim types.UID) error {
	file, err := c.file(claim)
	if err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a CDI file: %w", err)
	}
	return nil
}

// all returns the device files of all claims, by claim and device. A file that cannot be
// read is as none: the next preparation of its claim replaces it.
func (c cdiFiles) all(ctx context.Context) (map[types.UID]map[string]string, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list CDI files: %w", err)
	}
	claims := map[types.UID]map[string]string{}
	for _, entry := range entries {
		name, ours := strings.CutPrefix(entry.Name(), cdiPrefix)
		uid, whole := strings.CutSuffix(name, cdiSuffix)
		if !ours || !whole {
			continue
		}
		paths, err := c.read(types.UID(uid))
		if err != nil {
			klog.FromContext(ctx).Error(err, "Ignoring a CDI file")
			continue
		}
		claims[types.UID(uid)] = paths
	}
	return claims, nil
}

func (c cdiFiles) read(claim types.UID) (map[string]string, error) {
	file, err := c.file(claim)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var spec cdi.Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		return nil, fmt.Errorf("decode %s: %w", file, err)
	}
	paths := map[string]string{}
	for _, device := range spec.Devices {
		name, ours := strings.CutPrefix(device.Name, cdiName(claim, ""))
		if !ours || len(device.ContainerEdits.DeviceNodes) != 1 {
			return nil, fmt.Errorf("%s: device %+q is not ours", file, device.Name)
		}
		paths[name] = device.ContainerEdits.DeviceNodes[0].HostPath
	}
	return paths, nil
}

// holder returns the claim for which a device is prepared, or "".
func (c cdiFiles) holder(ctx context.Context, device string) (types.UID, error) {
	claims, err := c.all(ctx)
	if err != nil {
		return "", err
	}
	for claim, paths := range claims {
		if _, holds := paths[device]; holds {
			return claim, nil
		}
	}
	return "", nil
}

// move rewrites the files of claims with devices whose device file is another one now.
// A device without any keeps the last. So a container that is started again, in the same
// pod, finds a token that was plugged in again.
func (c cdiFiles) move(ctx context.Context, path func(device string) string) error {
	claims, err := c.all(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for claim, paths := range claims {
		moved := false
		for device, before := range paths {
			if now := path(device); now != "" && now != before {
				paths[device] = now
				moved = true
			}
		}
		if moved {
			errs = append(errs, c.write(claim, paths))
		}
	}
	return errors.Join(errs...)
}
