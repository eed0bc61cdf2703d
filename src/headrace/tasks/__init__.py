"""The hands: Taskiq workers that run jobs."""
