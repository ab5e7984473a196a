package images

import "testing"

func TestRepository(t *testing.T) {
	for reference, want := range map[string]string{
		"flow": "flow", "flow:1.2": "flow", "localhost:5000/a/flow": "localhost:5000/a/flow", "localhost:5000/a/flow:v1@sha256:00": "localhost:5000/a/flow", "registry.example/a/flow@sha256:00": "registry.example/a/flow",
	} {
		if got := Repository(reference); got != want {
			t.Errorf("%s: %s", reference, got)
		}
	}
}

func TestParse(t *testing.T) {
	set, err := Parse([]string{"a/b=/venv/bin"}, []string{"a/b=run it"})
	if err != nil {
		t.Fatal(err)
	}
	if image, ok := set.Find("a/b:9"); !ok || image.BinDir != "/venv/bin" || len(image.Entrypoint) != 2 {
		t.Error(image, ok)
	}
	for _, bad := range []string{"a", "=/x", "a=relative"} {
		if _, err := Parse([]string{bad}, nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := Parse(nil, []string{"unknown=x"}); err == nil {
		t.Error("an entrypoint without its image was taken")
	}
}
