// Package sandbox gives one container's process its own view of the machine.
//
// It has two halves. The node process fills in a Spec and starts itself again
// (see Command) in new mount, PID and UTS namespaces; that second process, the
// "stage", arranges the mounts and then becomes the container's command.
//
// The package imports nothing but the standard library, on purpose: the stage
// runs from this package's init function (stage.go explains why), so every
// import would be paid for at each container start.
package sandbox

// StageName is argv[0] of the second process; it is how the stage is told
// from an ordinary start of the same binary.
const StageName = "flowbinding-pod-init"

// File descriptors of the stage: where the Spec comes in, where an error goes
// out. The second is closed by a successful exec, which is how the node learns
// that the command is running.
const (
	specFD  = 3
	errorFD = 4
)

// Mount puts Source (a file or directory of the host) at Target.
type Mount struct {
	Source   string
	Target   string
	File     bool // Source is a file
	ReadOnly bool
	// Owned says that missing mount points may be created inside Source,
	// because it belongs to the pod (a volume, not a hostPath).
	Owned bool
}

// Spec is everything that the stage needs to become the container.
type Spec struct {
	Argv     []string
	Env      []string
	Dir      string
	Hostname string
	Mounts   []Mount
	// ReadOnlyRoot makes all of the host's tree read-only to the container.
	ReadOnlyRoot bool
	// Scratch is an existing directory of the host, used as a mount point
	// while a new root is put together.
	Scratch string
}
