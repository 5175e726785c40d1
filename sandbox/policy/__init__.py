"""What a container gets: limits, network, system calls; pure, and alone in deciding it."""
