from controller.observe import JobView
from controller.summary import summary
from k8s.status import Attempt, JobStatus, ProgressStatus, Summary

JOB = JobView(name="a", uid="u", stages=(), max_nodes=4)
PROGRESS = ProgressStatus(phase="step", step=340, steps=1_000, updated_at=0, loss=3.14159265)


def test_a_training_job_shows_pods_progress_loss_and_charges():
    live = Attempt("train", 2, created_at=0)
    status = JobStatus(attempt=live, progress=PROGRESS, charges=(5, 6))
    assert summary(status, JOB, running=2) == Summary("2/4", "34%", "3.142", "2/5")


def test_a_job_that_does_not_train_yet_shows_only_what_it_has():
    live = Attempt("convert", 1, created_at=0)
    assert summary(JobStatus(attempt=live), JOB, running=1) == Summary(restarts="0/5")


def test_the_last_progress_stays_when_the_job_is_over():
    assert summary(JobStatus(progress=PROGRESS), JOB, running=0).progress == "34%"
