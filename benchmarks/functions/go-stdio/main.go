package main

import (
	"encoding/json"
	"os"
)

func main() {
	var request struct {
		RequestID string         `json:"request_id"`
		Input     map[string]any `json:"input"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"request_id": request.RequestID, "success": true, "output": request.Input,
	})
}
