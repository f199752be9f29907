"""What runs on the dangerous side, in the same process as the hostile code. Imports nothing of ours."""
